"""The nodes of a vector as arrays: trees, and the turns of trajectories. Knows no method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.credit.columns import Trees
from pipeline.golden.nodes import Node, links


class Forest(NamedTuple):
    """Trees, and their nodes and the ids of these, row for row."""

    trees: Trees
    nodes: list[Node]
    ids: list[str]

    def by_id(self, values: np.ndarray, *, roots: bool = False) -> dict[str, Any]:
        """The values of the nodes by id; those of roots only where asked for."""
        kept = self.trees.parent >= (-1 if roots else 0)
        return {self.ids[row]: values[row] for row in np.flatnonzero(kept)}

    def ends(self) -> np.ndarray:
        """`[M]` rows of the leaves, a root that has no children left out."""
        return np.flatnonzero(self.trees.leaves() & (self.trees.parent >= 0))


class Turns(NamedTuple):
    """Steps of trajectories, `P` in all, trajectory after trajectory in the order of the vector.

    nodes: as listed. ids: of them. trajectories: names of the `M` trajectories. tasks: names of the tasks.
    offsets: `[M + 1]` int64, where each trajectory begins. groups: `[M]` int64, code of each one's task.
    """

    nodes: list[Node]
    ids: list[str]
    trajectories: list[str]
    tasks: list[str]
    offsets: np.ndarray
    groups: np.ndarray

    def column(self, name: str, default: Any, dtype: type = np.float64) -> np.ndarray:
        """`[P]` of a field, with a default where it is absent or null."""
        found = (node.get(name) for node in self.nodes)
        return np.array([default if value is None else value for value in found], dtype=dtype)

    def last(self, name: str, default: Any, dtype: type = np.float64) -> np.ndarray:
        """`[M]` of a field of each trajectory's last node."""
        return self.column(name, default, dtype)[self.offsets[1:] - 1]

    def by_id(self, values: Sequence[Any] | np.ndarray) -> dict[str, Any]:
        return dict(zip(self.ids, values, strict=True))

    def by_trajectory(self, values: Sequence[Any] | np.ndarray) -> dict[str, Any]:
        return dict(zip(self.trajectories, values, strict=True))

    def by_task(self, values: Sequence[Any] | np.ndarray) -> dict[str, Any]:
        return dict(zip(self.tasks, values, strict=True))


def forest(nodes: Sequence[Node], *, unfinished: float = 0.0) -> Forest:
    """Trees of the nodes of a vector, in their order; by depth where a child is listed before its parent.

    Args:
        nodes: as listed.
        unfinished: reward of a leaf that has none.

    Raises:
        KeyError: a parent is not there.
        ValueError: the nodes are no trees.
    """
    way = links(nodes)
    if (way.parent > np.arange(len(nodes))).any():
        nodes = [nodes[row] for row in np.argsort(way.depth, kind="stable")]
        way = links(nodes)
    inner = set(way.parent.tolist())
    reward = [np.nan if row in inner else _reward(node, unfinished) for row, node in enumerate(nodes)]
    tokens = [_tokens(node) for node in nodes]
    trees = Trees(
        parent=way.parent.astype(np.int32),
        depth=way.depth.astype(np.int32),
        tree=np.unique(way.root, return_inverse=True)[1].astype(np.int32),
        reward=np.array(reward, np.float64),
        tokens=np.array([token for node in tokens for token in node], np.int32),
        token_offsets=np.cumsum([0, *map(len, tokens)], dtype=np.int64),
    )
    return Forest(trees, list(nodes), [node["id"] for node in nodes])


def turns(nodes: Sequence[Node]) -> Turns:
    """The steps of the trajectories of a vector; its roots, which carry no data, are left out."""
    listed: dict[tuple[str, str], list[Node]] = {}
    tasks: dict[str, int] = {}
    for node in nodes:
        task = node.get("task", "")
        tasks.setdefault(task, len(tasks))
        if node["parent"] is not None:
            listed.setdefault((task, node["traj"]), []).append(node)
    steps = [sorted(some, key=lambda node: node.get("turn") or 0) for some in listed.values()]
    return Turns(
        nodes=[node for some in steps for node in some],
        ids=[node["id"] for some in steps for node in some],
        trajectories=[trajectory for _, trajectory in listed],
        tasks=list(tasks),
        offsets=np.cumsum([0, *map(len, steps)], dtype=np.int64),
        groups=np.array([tasks[task] for task, _ in listed], dtype=np.int64),
    )


def _tokens(node: Node) -> Sequence[int]:
    """Token ids; as many zeros as there are said to be where they are not given."""
    token_ids = node.get("token_ids")
    return [0] * int(node.get("n_tokens") or 0) if token_ids is None else token_ids


def _reward(node: Node, unfinished: float) -> float:
    """Of a leaf; one that is null is none."""
    return unfinished if node.get("reward") is None else float(node["reward"])
