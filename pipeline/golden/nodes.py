"""The nodes of a vector as columns: numbers, and the way up. Knows no method, and lets a reward be any number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Node = Mapping[str, Any]


class Links(NamedTuple):
    """`N` nodes. parent: `[N]` int64, row of the parent; -1 at a root. root: `[N]` int64, row of the root above, a
    root's own. depth: `[N]` int64, steps from the root."""

    parent: np.ndarray
    root: np.ndarray
    depth: np.ndarray


def links(nodes: Sequence[Node]) -> Links:
    """The way from each node to its root.

    Raises:
        KeyError: a parent is not listed before its child.
    """
    rows: dict[str, int] = {}
    parent, root, depth = [], [], []
    for row, node in enumerate(nodes):
        above = -1 if node["parent"] is None else rows[node["parent"]]
        parent.append(above)
        root.append(row if above < 0 else root[above])
        depth.append(0 if above < 0 else depth[above] + 1)
        rows[node["id"]] = row
    return Links(*(np.array(column, np.int64) for column in (parent, root, depth)))


def numbers(nodes: Sequence[Node], name: str, absent: float = np.nan) -> np.ndarray:
    """`[N]` float64 of a field; where a node has none, or null, what `absent` says."""
    found = (node.get(name) for node in nodes)
    return np.array([absent if value is None else value for value in found], np.float64)


def by_id(nodes: Sequence[Node], values: Sequence[Any] | np.ndarray, kept: np.ndarray | None = None) -> dict[str, Any]:
    """The values by id, those of the kept nodes only."""
    rows = range(len(nodes)) if kept is None else np.flatnonzero(kept)
    return {nodes[row]["id"]: values[row] for row in rows}


def chosen(params: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The parameters of these names that a case gives; lists as tuples."""
    given = {name: params[name] for name in names if params.get(name) is not None}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
