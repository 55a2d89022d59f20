"""What the policy said along the paths of trees: rendered nodes below a root, such as observations, are left out.

Needs the INPUT `kind`; with `origin`, tokens that were forced on the policy are left out too. Does not know turns nor
roles: a step is a node.
"""

from __future__ import annotations

import numpy as np

from pipeline.credit.columns import Paths, Trees, mean_by
from pipeline.credit.ragged import row_sums
from pipeline.credit.trajectories import Trajectories, trajectories
from schemas.words import KINDS, ORIGINS

PROMPT, FORCED = KINDS.index("prompt"), ORIGINS.index("prompt")


def said_by_policy(trees: Trees) -> np.ndarray:
    """`[N]` bool: nodes that are neither a root nor rendered."""
    said = (trees.parent >= 0) & (trees.given["kind"] != PROMPT)
    return said & (trees.given["origin"] != FORCED) if "origin" in trees.given else said


def only(paths: Paths, kept: np.ndarray) -> Paths:
    """The same paths with some of their nodes.

    Args:
        paths: `P` nodes.
        kept: `[P]` bool.
    """
    sizes = row_sums(kept.astype(np.float64), paths.offsets).astype(np.int64)
    return Paths(paths.nodes[kept], np.concatenate(([0], np.cumsum(sizes))), paths.count)


def spoken(trees: Trees, *, judged: bool = False) -> Trajectories:
    """Every path to a leaf, of what the policy said; one to a rendered leaf too.

    Args:
        trees: `N` nodes.
        judged: leave out leaves without a verdict.
    """
    return spoken_of(trees, trajectories(trees, judged=judged))


def spoken_of(trees: Trees, found: Trajectories) -> Trajectories:
    """The same trajectories without what the policy did not say."""
    return found._replace(paths=only(found.paths, said_by_policy(trees)[found.paths.nodes]))


def chosen(found: Trajectories, kept: np.ndarray) -> Trajectories:
    """Some of the trajectories: those where `kept`, `[M]` bool, is True."""
    paths = found.paths
    offsets = np.concatenate(([0], np.cumsum(np.diff(paths.offsets)[kept])))
    nodes = paths.nodes[kept[paths.members()]]
    return Trajectories(found.ends[kept], found.tasks[kept], Paths(nodes, offsets, paths.count))


def lay_steps(trees: Trees, nodes: np.ndarray, values: np.ndarray, *, unsaid: float = 0.0) -> np.ndarray:
    """What steps of trajectories earn, by node.

    Args:
        trees: `N` nodes.
        nodes: `[P]` int, row of each step; a step shared by trajectories is there once for each.
        values: `[P]` float64; NaN: unknown, left out.
        unsaid: of roots and rendered nodes.

    Returns:
        `[N]` float64: mean of the values of a node; NaN where none is known.
    """
    known = ~np.isnan(values)
    return np.where(said_by_policy(trees), mean_by(nodes[known], values[known], len(trees.parent)), unsaid)


def lay_trajectories(trees: Trees, found: Trajectories, values: np.ndarray) -> np.ndarray:
    """What trajectories earn, by step: `lay_steps` of `[M]` float64."""
    return lay_steps(trees, found.paths.nodes, values[found.paths.members()])


def expected(trees: Trees, found: Trajectories, values: np.ndarray) -> np.ndarray:
    """What is to be expected at a node.

    Args:
        trees: `N` nodes.
        found: `M` trajectories.
        values: `[M]` float64, what each earned; NaN: unknown, left out.

    Returns:
        `[N]` float64: mean over the trajectories through the node, roots included; NaN where there is none, and at
        rendered nodes.
    """
    known = ~np.isnan(values)
    of_tree = mean_by(found.tasks[known], values[known], int(trees.tree.max(initial=-1)) + 1)
    steps = values[found.paths.members()]
    told = ~np.isnan(steps)
    of_node = mean_by(found.paths.nodes[told], steps[told], len(trees.parent))
    return np.where(trees.parent < 0, of_tree[trees.tree], of_node)


def roots(trees: Trees) -> np.ndarray:
    """`[G]` int64: the row of each tree's root, by the tree's code."""
    rows = np.flatnonzero(trees.parent < 0)
    found = np.empty(len(rows), dtype=np.int64)
    found[trees.tree[rows]] = rows
    return found
