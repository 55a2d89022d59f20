"""R3L: attempts and their retries in one group, positive advantages amplified, shared beginnings out of the loss.

Does not generate: reflections are read by `pipeline.variants.reflect`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.credit.columns import CreditColumns, Trees, drop_rounding, mean_by
from pipeline.credit.ragged import row_sums, rows_of
from pipeline.errors import BadConfig, check_words

BASELINES = ("mean", "logavgexp")
"""What a reward is held against: the mean of the group, or `tau * log(mean(exp(r / tau)))`."""
AGGREGATIONS = ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean")
"""The mean over all trained tokens; over sequences of their sum; over sequences of their mean."""


@dataclass(frozen=True, slots=True)
class R3lParams:
    """Parameters of R3L.

    alpha: factor of an advantage that is not negative.
    max_reward: a reward no lower than this is a full success.
    max_reward_advantage: the advantage of a full success, whatever its group. None: the reward less the baseline.
    baseline: word of BASELINES. tau: of `logavgexp`, reward units.

    Raises:
        BadConfig: no such baseline, or a tau that is not positive.
    """

    alpha: float = 3.0
    max_reward: float = 1.0
    max_reward_advantage: float | None = 1.0
    baseline: str = "mean"
    tau: float = 1.0

    def __post_init__(self) -> None:
        check_words(self, of="r3l", baseline=BASELINES)
        if not self.tau > 0:
            raise BadConfig(f"r3l tau {self.tau} is not positive", remedy="give one above 0; 1 is the published one")


DEFAULTS = R3lParams()


def group_baselines(rewards: np.ndarray, groups: np.ndarray, params: R3lParams = DEFAULTS) -> np.ndarray:
    """What the rewards of each group are held against.

    Args:
        rewards: `[M]` float64, of all attempts and all retries of a task. NaN: not judged, takes no part.
        groups: `[M]` int, code of each trajectory's task, from 0.
        params: which baseline.

    Returns:
        `[G]` float64, reward units. 0 for a group of one, NaN for one without a judged member.

    Source: R^3L (Shi et al., 2026) and its code.
    """
    count = int(groups.max()) + 1 if len(groups) else 0
    known = ~np.isnan(rewards)
    reward, group = rewards[known], groups[known]
    size = np.bincount(group, minlength=count)
    baseline = mean_by(group, reward, count)
    if params.baseline == "logavgexp":
        high = np.full(count, -np.inf)
        np.maximum.at(high, group, reward)
        shifted = np.exp((reward - high[group]) / params.tau)
        baseline = np.where(size > 0, high, np.nan) + params.tau * np.log(
            mean_by(group, shifted, count), out=np.full(count, np.nan), where=size > 0
        )
    return np.where(size == 1, 0.0, baseline)


def amplified_advantages(rewards: np.ndarray, groups: np.ndarray, params: R3lParams = DEFAULTS) -> np.ndarray:
    """Reward less baseline; times alpha where that is not negative; set to a constant for a full success.

    A partial success may so get more than a full one: 1.8 for a reward of 0.9 over a baseline of 0.3.

    Args:
        rewards: `[M]` float64. NaN: not judged.
        groups: `[M]` int, code of each trajectory's task, from 0.
        params: factor, constant and baseline.

    Returns:
        `[M]` float64. 0 in a larger group of equal rewards below the full one, NaN where the reward is NaN.

    Source: R^3L (Shi et al., 2026), as its code has it: the constant, not alpha, for a full success; no division
        by the standard deviation. Deviation: equal rewards give exactly 0 however their mean rounds.
    """
    baseline = group_baselines(rewards, groups, params)
    step = drop_rounding(rewards - baseline[groups]) if len(groups) else rewards.copy()
    amplified = np.where(step >= 0, params.alpha * step, step)
    full = step if params.max_reward_advantage is None else np.full_like(step, params.max_reward_advantage)
    return np.where(rewards >= params.max_reward, full, amplified)


def settle_pivots(pivots: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """The pivot each trajectory is masked by: its own; else that of its retry; else 0.

    Args:
        pivots: `[M]` int, leading turns to leave out; -1 where none is given.
        sources: `[M]` int, row of the attempt a retry was made from; -1 for what is no retry.

    Returns:
        `[M]` int64. An attempt retried several times takes the earliest pivot.
    """
    own, none = pivots >= 0, np.iinfo(np.int64).max
    given = own & (sources >= 0)
    earliest = np.full(len(pivots), none)
    np.minimum.at(earliest, sources[given], pivots[given])
    return np.where(own, pivots, np.where(earliest < none, earliest, 0))


def pivot_masks(action_mask: np.ndarray, offsets: np.ndarray, pivots: np.ndarray) -> np.ndarray:
    """Take the first turns of each trajectory out of the loss: its first `pivot` runs of trained tokens.

    Args:
        action_mask: `[T]` bool, True for tokens the policy wrote, trajectory after trajectory.
        offsets: `[M + 1]` int64, where each trajectory begins.
        pivots: `[M]` int, turns to leave out; more than there are leave out all.

    Returns:
        `[T]` bool.

    Source: R^3L (Shi et al., 2026). Two messages without a token between them are one run.
    """
    mask = np.asarray(action_mask, bool)
    member = rows_of(offsets)
    begins = mask & ~np.concatenate(([False], mask[:-1]))[: len(mask)]
    first = offsets[:-1][np.diff(offsets) > 0]
    begins[first] = mask[first]
    runs = np.concatenate(([0], np.cumsum(begins)))
    return mask & (runs[1:] - runs[offsets[:-1]][member] > np.asarray(pivots)[member])


def from_first_action(action_mask: np.ndarray) -> np.ndarray:
    """`[T']` bool: the mask of one trajectory from the first token the policy wrote on; empty where there is none."""
    wrote = np.flatnonzero(action_mask)
    return np.asarray(action_mask, bool)[wrote[0] :] if len(wrote) else np.zeros(0, bool)


def opmd_loss(
    logprobs: np.ndarray,
    advantages: np.ndarray,
    action_mask: np.ndarray,
    offsets: np.ndarray,
    *,
    tau: float = 1.0,
    agg: str = "token-mean",
) -> float:
    """The REINFORCE-like loss `-A * logprob`, without ratio or clipping, divided by `1 + tau`.

    Args:
        logprobs, advantages: `[T]` float64, sequence after sequence. A token where one is NaN is left out.
        action_mask: `[T]` bool, the tokens trained.
        offsets: `[M + 1]` int64, where each sequence begins.
        tau: strength of the pull to the sampling policy that the loss was derived with.
        agg: word of AGGREGATIONS.

    Returns:
        0 where no token is trained: 1e-8 is added to every number of tokens.

    Raises:
        BadConfig: no such aggregation.

    Source: R^3L (Shi et al., 2026), OPMD as its code has it; the paper's KL term is left out.
    """
    if agg not in AGGREGATIONS:
        raise BadConfig(f"r3l loss aggregation {agg!r} is not known", remedy=f"use one of {AGGREGATIONS}")
    kept = np.asarray(action_mask, bool) & ~np.isnan(logprobs) & ~np.isnan(advantages)
    loss = np.where(kept, -np.nan_to_num(advantages) * np.nan_to_num(logprobs), 0.0)
    count = len(offsets) - 1
    if agg == "token-mean":
        return float(loss.sum() / (kept.sum() + 1e-8) / (1 + tau))
    total = row_sums(loss, offsets)
    if agg == "seq-mean-token-mean":
        total = total / (row_sums(kept, offsets) + 1e-8)
    return float(total.sum() / max(1, count) / (1 + tau))


def replay_priorities(policy_versions: np.ndarray, uses: np.ndarray, *, penalty: float = 2.0) -> np.ndarray:
    """`[M]` float64, higher first: the version that sampled an item, less so much for each use of it."""
    return np.asarray(policy_versions, np.float64) - penalty * np.asarray(uses)


def may_replay(uses: np.ndarray, *, most: int = 3) -> np.ndarray:
    """`[M]` bool: items that were not used so often yet."""
    return np.asarray(uses) < most


def r3l_credit(trees: Trees, params: R3lParams = DEFAULTS) -> CreditColumns:
    """Give every step the advantage of its trajectory among the judged attempts and distilled retries of the tree.

    A step that several judged trajectories pass through is what a retry shares with its attempt: it is masked. A
    retry stored from the task's own prompt on shares nothing, so nothing of it is. Needs no INPUTS; the nodes
    must be those of plain samples and distilled retries (origins `sample` and `retry`), guided retries and
    reflections being groups of their own.

    Args:
        trees: `N` nodes.
        params: factor, constant and baseline.

    Returns:
        advantage: `[N]` float64; 0 at roots and masked steps, NaN where no judged leaf is below.
        mask: `[N]` bool, True for the steps of just one judged trajectory.

    Source: R^3L (Shi et al., 2026), see `amplified_advantages`.
    """
    ends = trees.judged()
    paths = trees.paths(ends)
    advantage = paths.mean_by_node(amplified_advantages(trees.reward[ends], trees.tree[ends], params))
    root, through = trees.parent < 0, np.bincount(paths.nodes, minlength=len(trees.parent))
    return CreditColumns(advantage=np.where(root | (through > 1), 0.0, advantage), mask=(through == 1) & ~root)
