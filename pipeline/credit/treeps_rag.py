"""TreePS-RAG: a search step is worth the mean outcome of the answers below it, beside its parent's and the root's.

Does not know what retrieves: documents are codes, and a near copy of a sibling's search is one by their overlap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from pipeline.credit.columns import ZERO, CreditColumns, Trees, drop_rounding, moments, rows_by_depth
from pipeline.credit.ragged import rows_of
from pipeline.errors import BadConfig, check_words

MODES = ("local", "global", "combined", "combined_sqrt_leaves")
"""Value less the parent's; less the root's; the sum of both; that over the square root of the leaves below."""


@dataclass(frozen=True, slots=True)
class TreepsRagParams:
    """Parameters of TreePS-RAG.

    mode: word of MODES. The paper's own was not found.
    whiten: take the mean of all advantages away and divide by their standard deviation.
    ddof, eps: of that deviation, and added to it.

    Raises:
        BadConfig: no such mode.
    """

    mode: str = "combined"
    whiten: bool = False
    ddof: int = 1
    eps: float = 1e-8

    def __post_init__(self) -> None:
        check_words(self, of="treeps_rag", mode=MODES)


DEFAULTS = TreepsRagParams()


class TreepsRag(NamedTuple):
    """What TreePS-RAG says of `N` nodes.

    value:     `[N]` float64, mean reward of the leaves below; NaN where there is none and at pruned nodes.
    leaves:    `[N]` int64, leaves below that count, a leaf being below itself; 0 at pruned nodes.
    advantage: `[N]` float64; 0 at roots, NaN where the value is unknown.
    """

    value: np.ndarray
    leaves: np.ndarray
    advantage: np.ndarray


def treeps_rag(
    parent: np.ndarray,
    depth: np.ndarray,
    *,
    reward: np.ndarray,
    pruned: np.ndarray | None = None,
    params: TreepsRagParams = DEFAULTS,
) -> TreepsRag:
    """Credit a step with how far the mean outcome below it stands from the parent's and the root's.

    Args:
        parent: `[N]` int, row of the parent; -1 at a root. Any number of trees.
        depth: `[N]` int, steps from the root.
        reward: `[N]` float64, outcome of a leaf, 0 where a run met the step limit; NaN: unknown, does not count.
            Rewards of inner nodes do not count either.
        pruned: `[N]` bool, nodes taken out of every mean, with all below them. None: none is.
        params: which advantage.

    Source: TreePS-RAG (2026), from its abstract. Deviations: the advantage is not the paper's, which was not
        found, but of the family of other tree methods; one that is mere rounding is 0.
    """
    levels = rows_by_depth(depth)
    gone = np.zeros(len(parent), dtype=bool) if pruned is None else pruned.copy()
    root = np.arange(len(parent))
    for rows in levels[1:]:
        gone[rows] |= gone[parent[rows]]
        root[rows] = root[parent[rows]]
    counted = ~np.isnan(reward) & ~gone
    counted[parent[parent >= 0]] = False
    total, leaves = np.where(counted, reward, 0.0), counted.astype(np.int64)
    for rows in levels[:0:-1]:
        np.add.at(total, parent[rows], total[rows])
        np.add.at(leaves, parent[rows], leaves[rows])
    value = np.divide(total, leaves, out=np.full(len(total), np.nan), where=leaves > 0)
    return TreepsRag(value, leaves, _advantage(value, leaves, parent=parent, root=root, params=params))


def treeps_rag_credit(trees: Trees, params: TreepsRagParams = DEFAULTS) -> CreditColumns:
    """TreePS-RAG of stored trees. Needs no INPUTS: a pruned step is one without a verdict below.

    Args:
        trees: `N` nodes.
        params: which advantage; whitened over all of `trees`.

    Returns:
        value, advantage: as `treeps_rag` gives them.

    Source: as `treeps_rag`. Deviation: a leaf without a verdict does not count, a run cut short being the
        verifier's to judge.
    """
    found = treeps_rag(trees.parent, trees.depth, reward=trees.reward, params=params)
    return CreditColumns(value=found.value, advantage=found.advantage)


def check_threshold(threshold: float) -> None:
    """Refuse what is no overlap of documents.

    Raises:
        BadConfig: it is not in (0, 1].
    """
    if not 0 < threshold <= 1:
        raise BadConfig(
            f"treeps_rag threshold {threshold} is no overlap of documents",
            remedy="give more than 0, at most 1; 1 drops only searches that found the very same",
        )


def prune_siblings(
    parent: np.ndarray, documents: np.ndarray, offsets: np.ndarray, *, searches: np.ndarray, threshold: float
) -> np.ndarray:
    """Which candidate steps repeat the search of an earlier sibling that is kept, by what was retrieved.

    Two searches are alike when the Jaccard index of their documents is at least the threshold; two that found
    nothing are. The first of siblings always stays, so no node loses its last child.

    Args:
        parent: `[K]` int, code from 0 of each candidate's parent; siblings stand in the order they were drawn.
        documents: `[D]` int, codes from 0 of the documents retrieved, candidate after candidate.
        offsets: `[K + 1]` int64, where each candidate's documents begin.
        searches: `[K]` bool; other candidates, such as answers, stay.
        threshold: more than 0 and at most 1; not published.

    Returns:
        `[K]` bool, True where the candidate is to be dropped.

    Raises:
        BadConfig: as `check_threshold`.

    Source: TreePS-RAG (2026), by notes of others; the measure is ours.
    """
    check_threshold(threshold)
    count = len(parent)
    empty = np.flatnonzero(searches & (np.diff(offsets) == 0))
    nothing = int(documents.max(initial=-1)) + 1  # what a search without a result found
    found = np.concatenate((documents, np.full(len(empty), nothing)))
    member = np.concatenate((rows_of(offsets), empty))
    found, member = found[searches[member]], member[searches[member]]
    _, column = np.unique(parent[member].astype(np.int64) * (nothing + 1) + found, return_inverse=True)
    held = csr_array((np.ones(len(member)), (member, column)), shape=(count, int(column.max(initial=-1)) + 1))
    held.data[:] = 1.0  # a document retrieved twice counts once
    sizes = np.diff(held.indptr)
    both = (held @ held.T).tocoo()
    later, earlier = both.coords
    overlap = both.data / (sizes[later] + sizes[earlier] - both.data)
    alike = (later > earlier) & (overlap >= threshold - ZERO)
    later, earlier = later[alike], earlier[alike]

    order = np.argsort(parent, kind="stable")
    rank = np.empty(count, dtype=np.int64)
    rank[order] = np.arange(count) - np.searchsorted(parent[order], parent[order])
    dropped = np.zeros(count, dtype=bool)
    for place in np.unique(rank[later]):
        here = rank[later] == place
        dropped[later[here][~dropped[earlier[here]]]] = True
    return dropped


def _advantage(
    value: np.ndarray, leaves: np.ndarray, *, parent: np.ndarray, root: np.ndarray, params: TreepsRagParams
) -> np.ndarray:
    local, above = value - value[parent], value - value[root]
    match params.mode:
        case "local":
            step = local
        case "global":
            step = above
        case "combined":
            step = local + above
        case "combined_sqrt_leaves":
            step = (local + above) / np.sqrt(np.maximum(leaves, 1))
    advantage = np.where(parent < 0, 0.0, drop_rounding(step))
    if params.whiten:
        rows = np.flatnonzero((parent >= 0) & ~np.isnan(advantage))
        of = moments(advantage[rows], np.zeros(len(rows), dtype=np.int64), count=1, ddof=params.ddof)
        advantage[rows] = drop_rounding(of.centred / (np.nan_to_num(of.std[0]) + params.eps))
    return advantage
