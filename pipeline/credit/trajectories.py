"""Trees as trajectories: every path from below a root to a leaf, and what its rows say put back on the nodes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipeline.credit.columns import Paths, Trees, mean_by, rows_by_depth


class Trajectories(NamedTuple):
    """The `M` leaves of some trees, depth first, children in the order of their rows; a root alone is none.

    ends:  `[M]` int64, rows of the leaves.
    tasks: `[M]` int32, code of the tree of each: its group.
    paths: from below the root to each of them, `P` rows.
    """

    ends: np.ndarray
    tasks: np.ndarray
    paths: Paths


def trajectories(trees: Trees, *, judged: bool = False) -> Trajectories:
    """Every path to a leaf.

    Args:
        trees: `N` nodes.
        judged: leave out leaves without a verdict.
    """
    ends = depth_first_leaves(trees)
    ends = ends[(trees.depth[ends] > 0) & ~(judged & np.isnan(trees.reward[ends]))]
    return Trajectories(ends, trees.tree[ends], trees.paths(ends))


def depth_first_leaves(trees: Trees) -> np.ndarray:
    """`[L]` rows of the leaves as a walk meets them that goes down first; children in the order of their rows."""
    parent, leaf = trees.parent, trees.leaves()
    below = leaf.astype(np.int64)
    for rows in trees.deepest_first():
        np.add.at(below, parent[rows], below[rows])
    start = np.zeros(len(parent), dtype=np.int64)
    for depth, rows in enumerate(rows_by_depth(trees.depth)):
        if depth == 0:
            start[rows] = np.cumsum(below[rows]) - below[rows]
            continue
        family = rows[np.argsort(parent[rows], kind="stable")]
        before = np.cumsum(below[family]) - below[family]
        first = np.flatnonzero(np.diff(parent[family], prepend=-1))
        eldest = np.repeat(before[first], np.diff(first, append=len(family)))
        start[family] = start[parent[family]] + before - eldest
    ends = np.flatnonzero(leaf)
    return ends[np.argsort(start[ends])]


def node_means(trees: Trees, paths: Paths, values: np.ndarray) -> np.ndarray:
    """What rows say, by node.

    Args:
        trees: `N` nodes.
        paths: through them.
        values: `[P]` float64, a row a node of a path.

    Returns:
        `[N]` float64: mean over the paths through the node; 0 at roots, NaN where no path goes.
    """
    return np.where(trees.parent < 0, 0.0, mean_by(paths.nodes, values, len(trees.parent)))
