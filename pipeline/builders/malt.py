"""MALT rows: good outputs to imitate and pairs of siblings, for each role of a tree of roles.

Orders by depth first, children in the order they are stored in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.credit.columns import Trees, ranges, rows_by_depth

ROLES = ("generator", "verifier", "refiner")
"""The published roles, from the first level below the task on."""


def depth_first(trees: Trees) -> np.ndarray:
    """`[N]` int64: place of each node when the trees are walked depth first, one tree after the other."""
    parent, levels = trees.parent, rows_by_depth(trees.depth)
    size = np.ones(len(parent), np.int64)
    for rows in levels[:0:-1]:
        np.add.at(size, parent[rows], size[rows])
    place = np.zeros(len(parent), np.int64)
    for rows in levels:
        ordered = rows[np.argsort(trees.tree[rows] if not trees.depth[rows[0]] else parent[rows], kind="stable")]
        before = np.cumsum(size[ordered]) - size[ordered]
        if not trees.depth[rows[0]]:
            place[ordered] = before
            continue
        above = parent[ordered]
        first = np.concatenate(([True], above[1:] != above[:-1]))
        place[ordered] = place[above] + 1 + before - before[first][np.cumsum(first) - 1]
    return place


def good_rows(trees: Trees, labels: np.ndarray) -> np.ndarray:
    """Rows of the outputs labelled good, depth first; roots are left out.

    Args:
        trees: `N` nodes.
        labels: `[N]` float64, of `pipeline.credit.malt.node_labels`.
    """
    rows = np.flatnonzero((labels == 1) & (trees.parent >= 0))
    return rows[np.argsort(depth_first(trees)[rows])]


def sibling_pairs(trees: Trees, labels: np.ndarray, *, max_pairs_per_parent: int | None = None) -> np.ndarray:
    """Every good output against every bad one under the same parent.

    Args:
        trees: `N` nodes.
        labels: `[N]` float64, of `pipeline.credit.malt.node_labels`; NaN enters no pair.
        max_pairs_per_parent: the first so many of each parent. None: all.

    Returns:
        `[K, 2]` int64, rows of chosen and rejected; parents depth first, within one the good outputs in the outer
        loop and the bad ones in the inner.
    """
    place = depth_first(trees)
    below = trees.parent >= 0
    sides = []
    for wanted in (1, 0):
        rows = np.flatnonzero((labels == wanted) & below)
        sides.append(rows[np.lexsort((place[rows], place[trees.parent[rows]]))])
    good, bad = sides
    count = len(trees.parent)
    bad_of = np.bincount(trees.parent[bad], minlength=count)
    starts = np.zeros(count, np.int64)
    firsts = np.flatnonzero(np.concatenate(([True], np.diff(trees.parent[bad]) != 0))) if len(bad) else bad
    starts[trees.parent[bad[firsts]]] = firsts
    many = bad_of[trees.parent[good]]
    pairs = np.stack([np.repeat(good, many), bad[ranges(starts[trees.parent[good]], many)]], axis=1).astype(np.int64)
    if max_pairs_per_parent is None or not len(pairs):
        return pairs
    above = trees.parent[pairs[:, 0]]
    first = np.flatnonzero(np.concatenate(([True], above[1:] != above[:-1])))
    within = np.arange(len(pairs)) - np.repeat(first, np.diff(np.append(first, len(pairs))))
    return pairs[within < max_pairs_per_parent]


def by_role(depths: np.ndarray, roles: Sequence[str] = ROLES) -> Iterator[tuple[str, np.ndarray]]:
    """Each role with which of some nodes are its own, told by their depth: `[K]` bool."""
    for level, role in enumerate(roles, start=1):
        yield role, depths == level


def sft_row(trees: Trees, texts: Sequence[str], row: int, *, roles: Sequence[str], systems: Mapping[str, str]) -> dict:
    """A good output to imitate.

    Args:
        trees: `N` nodes, one output a node.
        texts: `[N]`, text of each; a root's is the task.
        row: the output.
        roles: of the levels below the root.
        systems: system prompt of each role.

    Returns:
        role, node, system, context (the task, then the output of each role before), completion. Only the completion
        is trained.
    """
    return _context(trees, texts, row, roles=roles, systems=systems) | {"node": int(row), "completion": texts[row]}


def pair_row(
    trees: Trees,
    texts: Sequence[str],
    pair: Sequence[int],
    *,
    values: np.ndarray,
    roles: Sequence[str],
    systems: Mapping[str, str],
) -> dict[str, Any]:
    """A good output against a bad sibling: the context of `sft_row` once, chosen and rejected with their nodes, and the
    margin, value of chosen less that of rejected."""
    chosen, rejected = (int(row) for row in pair)
    return _context(trees, texts, chosen, roles=roles, systems=systems) | {
        "chosen_node": chosen,
        "rejected_node": rejected,
        "chosen": texts[chosen],
        "rejected": texts[rejected],
        "margin": float(values[chosen] - values[rejected]),
    }


def _context(
    trees: Trees, texts: Sequence[str], row: int, *, roles: Sequence[str], systems: Mapping[str, str]
) -> dict[str, Any]:
    role, above = roles[trees.depth[row] - 1], []
    while (row := trees.parent[row]) >= 0:
        above.append(texts[row])
    return {"role": role, "system": systems[role], "context": above[::-1]}
