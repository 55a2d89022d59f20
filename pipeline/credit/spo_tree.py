"""SPO-tree: a step is worth how far its value stands from its parent's.

Does not know log-probabilities: the mask over confident tokens is the trainer's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.credit.columns import ZERO, CreditColumns, Trees, drop_rounding, moments
from pipeline.credit.compiled import kernels
from pipeline.errors import check_words

ADVANTAGES = ("centred", "std")
"""Value less the parent's; the same over the standard deviation of the siblings' values."""


@dataclass(frozen=True, slots=True)
class SpoTreeParams:
    """Parameters of SPO-tree.

    advantage: word of ADVANTAGES. The official code calls them rloo and grpo.
    std_ddof, std_eps: of the standard deviation over siblings, used by `std`.

    Raises:
        BadConfig: no such advantage.
    """

    advantage: str = "centred"
    std_ddof: int = 0
    std_eps: float = 1e-8

    def __post_init__(self) -> None:
        check_words(self, of="spo_tree", advantage=ADVANTAGES)


DEFAULTS = SpoTreeParams()


def spo_tree(trees: Trees, params: SpoTreeParams = DEFAULTS) -> CreditColumns:
    """Credit a step with its node's value less the parent's, values being nested means of verdicts.

    Args:
        trees: `N` nodes.
        params: whether the advantage is divided by the siblings' spread.

    Returns:
        value: see `node_values`.
        advantage: `[N]` float64; 0 at roots and among equal siblings, NaN where the node has no judged leaf below.
        mask: `[N]` bool, True for nodes with tokens and an advantage other than 0.

    Source: Segment Policy Optimization (Guo et al., 2025) and its code. Deviations: a leaf without a verdict is
        left out (there an unfinished leaf scores 0, which here is the verifier's to say), and an advantage
        that is mere rounding counts as 0.
    """
    value = node_values(trees)
    fast = kernels(len(value))
    if fast and params.advantage == "centred":
        advantage, mask = fast.value_steps(value, trees.parent, trees.token_offsets, ZERO)
        return CreditColumns(value=value, advantage=advantage, mask=mask)
    advantage = np.where(trees.parent < 0, 0.0, drop_rounding(value - value[trees.parent]))
    if params.advantage == "std":
        std = value_std(trees, value, ddof=params.std_ddof)[trees.parent]
        advantage = np.where(trees.parent < 0, 0.0, advantage / (np.nan_to_num(std) + params.std_eps))
    return CreditColumns(value=value, advantage=advantage, mask=(np.abs(advantage) > ZERO) & (trees.token_counts() > 0))


def node_values(trees: Trees) -> np.ndarray:
    """`[N]` float64, reward units: a leaf's verdict; else the mean of the children's values, each counting once.

    NaN at a leaf without a verdict, which its parent skips, and wherever no judged leaf is below.
    """
    count = len(trees.parent)
    if fast := kernels(count):
        return fast.node_values(trees.reward, trees.parent)
    value, total, known = trees.reward.copy(), np.zeros(count), np.zeros(count, dtype=np.int64)
    for rows in trees.deepest_first():
        _settle(value, rows, total=total, known=known)
        counted = rows[~np.isnan(value[rows])]
        np.add.at(total, trees.parent[counted], value[counted])
        np.add.at(known, trees.parent[counted], 1)
    _settle(value, np.flatnonzero(trees.parent < 0), total=total, known=known)
    return value


def value_std(trees: Trees, value: np.ndarray, *, ddof: int = 0) -> np.ndarray:
    """Spread of the values of each node's children.

    Args:
        trees: `N` nodes.
        value: `[N]` float64, of `node_values`.
        ddof: 0 in the paper.

    Returns:
        `[N]` float64; NaN at leaves and where no child's value is known.
    """
    rows = np.flatnonzero((trees.parent >= 0) & ~np.isnan(value))
    return moments(value[rows], trees.parent[rows], count=len(value), ddof=ddof).std


def best_of_gain(trees: Trees, value: np.ndarray, *, samples: int = 4) -> np.ndarray:
    """By how much a step moves the chance that one of some samples is right: `(1 - (1 - v)^b)` less the parent's.

    Args:
        trees: `N` nodes.
        value: `[N]` float64, of `node_values`.
        samples: `b`, 4 in the official code.

    Returns:
        `[N]` float64, in [-1, 1] for values in [0, 1]; 0 at roots, NaN where the node's value is unknown.
    """
    chance = 1.0 - (1.0 - value) ** samples
    return np.where(trees.parent < 0, 0.0, drop_rounding(chance - chance[trees.parent]))


def _settle(value: np.ndarray, rows: np.ndarray, *, total: np.ndarray, known: np.ndarray) -> None:
    """Write the value of those rows that have children of known value."""
    inner = rows[known[rows] > 0]
    value[inner] = total[inner] / known[inner]
