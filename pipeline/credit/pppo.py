"""PPPO: only the beginning of a response is trained, by how many of its continuations succeed.

Draws no continuations and trains nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.credit.columns import ZERO, CreditColumns, Trees, drop_rounding, moments, rows_by_depth
from pipeline.credit.ragged import rows_of
from pipeline.errors import BadConfig


@dataclass(frozen=True, slots=True)
class PppoParams:
    """Parameters of progressive prefix-token policy optimization.

    eta: share of a response that is its prefix, in [0, 1]; where training begins.
    std_ddof, std_eps: of the standard deviation over a task's prefixes, and added to it; not published.

    Raises:
        BadConfig: eta is no share.
    """

    eta: float = 0.15
    std_ddof: int = 1
    std_eps: float = 1e-6

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise BadConfig(f"pppo eta {self.eta} is no share", remedy="use a number from 0 to 1")


@dataclass(frozen=True, slots=True)
class RetentionParams:
    """How the share grows in training.

    eta0: share at the start. step: by which it grows. eta_max: what it never exceeds.
    patience: checks without a better accuracy before it grows; ours.

    Raises:
        BadConfig: the share could not grow from the first to the greatest, or patience is no count.
    """

    eta0: float = 0.15
    step: float = 0.05
    eta_max: float = 0.35
    patience: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.eta0 <= self.eta_max <= 1 or not self.step > 0:
            raise BadConfig(
                f"pppo eta cannot go from {self.eta0} to {self.eta_max} by {self.step}",
                remedy="let eta0 be at most eta_max, both in [0, 1], and step above 0",
            )
        if self.patience < 1:
            raise BadConfig(f"pppo patience is {self.patience}", remedy="use 1 or more")


DEFAULTS = PppoParams()
RETENTION = RetentionParams()


def prefix_tokens(lengths: np.ndarray, eta: float = DEFAULTS.eta) -> np.ndarray:
    """`[M]` int64: how many tokens of responses of these lengths are trained, the share rounded down."""
    return np.floor(eta * np.asarray(lengths) + 1e-9).astype(np.int64)


def prefix_mask(offsets: np.ndarray, eta: float = DEFAULTS.eta) -> np.ndarray:
    """`[T]` bool: the tokens that are trained of responses that begin at `offsets`, `[M + 1]`.

    The loss divides by all tokens, trained or not.
    """
    responses = rows_of(offsets)
    place = np.arange(len(responses)) - offsets[responses]
    return place < prefix_tokens(np.diff(offsets), eta)[responses]


def accumulated_rewards(rewards: np.ndarray, prefixes: np.ndarray, *, count: int) -> np.ndarray:
    """What the responses that share a prefix earned together, the original one and its continuations.

    Args:
        rewards: `[K]` float64; NaN: unfinished, earns 0.
        prefixes: `[K]` int, the prefix of each, below `count`.
        count: `N`, the number of prefixes.

    Returns:
        `[N]` float64; from 0 to the number of responses if each earns 0 or 1.
    """
    return np.bincount(prefixes, weights=np.nan_to_num(rewards), minlength=count)


def pppo_advantages(accumulated: np.ndarray, groups: np.ndarray, params: PppoParams = DEFAULTS) -> np.ndarray:
    """Accumulated reward of a prefix among those of its task: `(R - mean) / (std + eps)`.

    Args:
        accumulated: `[N]` float64, no NaN.
        groups: `[N]` int, code of each prefix's task, from 0.
        params: of the deviation.

    Returns:
        `[N]` float64, in standard deviations. 0 among equals; a lone prefix keeps `R / (1 + eps)`.

    Source: PPPO (2025), by its formulas; the deviation is that of verl's group advantage, the paper printing none.
    """
    of = moments(accumulated, groups, count=int(groups.max(initial=-1)) + 1, ddof=params.std_ddof)
    alone = of.count[groups] == 1
    spread = np.where(alone, 1.0, np.nan_to_num(of.std[groups])) + params.std_eps
    return drop_rounding(np.where(alone, accumulated, of.centred) / spread)


def retention(accuracies: np.ndarray, params: RetentionParams = RETENTION) -> np.ndarray:
    """The share after each validation: it grows by a step whenever accuracy was not better for some checks.

    Args:
        accuracies: `[V]` float64, in order; NaN: no check was made, nothing changes.
        params: how it grows.

    Returns:
        `[V]` float64, `eta0` plus whole steps, at most `eta_max`; it never falls.

    Source: PPPO (2025). That accuracy is compared with the best so far, and patience, are ours.
    """
    best, stalled, steps, taken = -np.inf, 0, 0, []
    for accuracy in accuracies:
        if accuracy > best + ZERO:
            best, stalled = accuracy, 0
        elif not np.isnan(accuracy):
            stalled += 1
        if stalled >= params.patience:
            steps, stalled = steps + 1, 0
        taken.append(steps)
    return np.minimum(params.eta0 + np.array(taken, np.int64) * params.step, params.eta_max)


def pppo_credit(trees: Trees, params: PppoParams = DEFAULTS) -> CreditColumns:
    """PPPO of stored trees: the step below the root is the prefix, the judged leaves below it what it led to.

    For trees that were branched at the end of that step, with as many continuations from each. Needs no INPUTS.

    Args:
        trees: `N` nodes.
        params: of the deviation; eta was used when the tree was grown, and is not looked at.

    Returns:
        value: `[N]` float64, what the prefix of the node accumulated; NaN at roots and where no judged leaf is below.
        advantage: `[N]` float64, that of the node's prefix; 0 at roots, NaN where no judged leaf is below.
        mask: `[N]` bool, True for prefixes with tokens and an advantage.

    Source: as `pppo_advantages`. Deviation: a leaf without a verdict does not count.
    """
    count = len(trees.parent)
    below, prefix = np.zeros(count, dtype=bool), np.arange(count)
    below[trees.judged()] = True
    levels = rows_by_depth(trees.depth)
    for rows in levels[2:]:
        prefix[rows] = prefix[trees.parent[rows]]
    for rows in levels[:0:-1]:
        np.logical_or.at(below, trees.parent[rows], below[rows])
    ends = trees.judged()
    ends = ends[trees.depth[ends] > 0]
    rows = np.flatnonzero((trees.depth == 1) & below)
    value = np.full(count, np.nan)
    value[rows] = accumulated_rewards(trees.reward[ends], prefix[ends], count=count)[rows]
    advantage = np.full(count, np.nan)
    advantage[rows] = pppo_advantages(value[rows], np.unique(trees.tree[rows], return_inverse=True)[1], params)
    unknown = np.where(below, 0.0, np.nan)
    mask = (trees.depth == 1) & (np.abs(np.nan_to_num(advantage)) > 0) & (trees.token_counts() > 0)
    return CreditColumns(
        value=value[prefix] + unknown,
        advantage=np.where(trees.parent < 0, 0.0, advantage[prefix] + unknown),
        mask=mask,
    )
