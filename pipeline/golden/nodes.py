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
    """The way from each node to its root; a parent may be listed after its child.

    Raises:
        KeyError: a parent is not there.
        ValueError: a node is above itself.
    """
    rows = {node["id"]: row for row, node in enumerate(nodes)}
    parent = np.array([-1 if node["parent"] is None else rows[node["parent"]] for node in nodes], np.int64)
    root, depth, above = np.arange(len(nodes)), np.zeros(len(nodes), np.int64), parent.copy()
    while len(climbing := np.flatnonzero(above >= 0)):
        if depth.max() > len(nodes):
            raise ValueError(f"node {nodes[climbing[0]]['id']!r} is above itself")
        root[climbing] = above[climbing]
        depth[climbing] += 1
        above[climbing] = parent[above[climbing]]
    return Links(parent, root, depth)


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
