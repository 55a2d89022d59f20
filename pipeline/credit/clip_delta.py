"""Clip and Delta: scores of a process reward model, bounded along a trajectory.

Does not know where the scores come from, nor the divergence from a reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.credit.columns import CreditColumns, Trees, drop_rounding, mean_by
from pipeline.credit.ragged import last_places, suffix_sums
from pipeline.errors import check_words

MODES = ("raw", "clip", "delta", "clip_delta")
"""The scores as they are; cut off at the threshold; each less the next; cut off, then each less the next."""
BASELINES = ("group", "none")
"""What the credit of stored trees is measured from: the task's mean return from the first step; nothing."""


@dataclass(frozen=True, slots=True)
class ClipDeltaParams:
    """Parameters of Clip and Delta. eta and alpha are not published: these are conventions.

    mode: word of MODES.
    eta: threshold of the cut, in units of the scores.
    alpha: weight of a score beside the outcome.
    baseline: word of BASELINES; of `clip_delta_credit` alone.

    Raises:
        BadConfig: no such mode or baseline.
    """

    mode: str = "clip_delta"
    eta: float = 0.5
    alpha: float = 0.1
    baseline: str = "group"

    def __post_init__(self) -> None:
        check_words(self, of="clip_delta", mode=MODES, baseline=BASELINES)


DEFAULTS = ClipDeltaParams()


class ShapedSteps(NamedTuple):
    """Rewards of `S` steps; NaN where a score or the outcome that enters is.

    shaped: `[S]`, the score after clip and delta.
    step_rewards: `[S]`, alpha * shaped, plus the outcome on the last step of a trajectory.
    return_to_go: `[S]`, sum of `step_rewards` from the step on.
    """

    shaped: np.ndarray
    step_rewards: np.ndarray
    return_to_go: np.ndarray


def clip_delta(
    scores: np.ndarray, offsets: np.ndarray, *, outcomes: np.ndarray, params: ClipDeltaParams = DEFAULTS
) -> ShapedSteps:
    """Shape the step scores of trajectories.

    Clip is `min(score - eta, 0)`. Delta is a step's score less the next one's; the last step has 0, since the outcome
    takes over there, and the one before it keeps its score.

    Args:
        scores: `[S]` float64, the steps of `M` trajectories, one after the other; NaN where unknown.
        offsets: `[M + 1]` int64, where each begins. A trajectory without steps has no reward.
        outcomes: `[M]` float64, the success reward.
        params: mode, eta, alpha.

    Source: On Designing Effective RL Reward at Training Time for LLM Reasoning (Gao et al., 2024), without the
        divergence term, which is the trainer's.
    """
    shaped = scores.astype(np.float64)
    if params.mode in ("clip", "clip_delta"):
        shaped = np.minimum(shaped - params.eta, 0.0)
    rows, last = last_places(offsets)
    if params.mode in ("delta", "clip_delta"):
        following = np.zeros(len(shaped))
        following[:-1] = shaped[1:]
        several = last[np.diff(offsets)[rows] > 1]
        following[several - 1] = 0.0
        shaped = shaped - following
        shaped[last] = 0.0
    step_rewards = params.alpha * shaped
    step_rewards[last] += outcomes[rows]
    return ShapedSteps(shaped, step_rewards, suffix_sums(step_rewards, offsets))


def clip_delta_credit(trees: Trees, params: ClipDeltaParams = DEFAULTS) -> CreditColumns:
    """Credit a step with the return from it on.

    A trajectory is the path to a judged leaf, its outcome the verdict. Where several pass through a node, it has the
    mean of their returns. From the return is taken the mean return from the first step over the task's trajectories
    that have one; a trajectory alone has nothing to be compared with and keeps its return.

    Args:
        trees: `N` nodes, given `step_soft`, the score of each step.
        params: mode, eta, alpha, baseline.

    Returns:
        value: `[N]` float64, mean return from the step on, its own reward included; NaN at roots and where unknown.
        advantage: `[N]` float64, value less the baseline; 0 at roots, NaN where no judged leaf is below or a score that
            enters the return is unknown.

    Source: as `clip_delta`. Deviation: the baseline stands in for the paper's critic, which no table holds.
    """
    ends = trees.judged()
    paths = trees.paths(ends)
    found = clip_delta(trees.given["step_soft"][paths.nodes], paths.offsets, outcomes=trees.reward[ends], params=params)
    known = ~np.isnan(found.return_to_go)
    value = mean_by(paths.nodes[known], found.return_to_go[known], len(trees.parent))
    advantage = value
    if params.baseline == "group":
        starts = found.return_to_go[paths.offsets[:-1][np.diff(paths.offsets) > 0]]
        groups = trees.tree[ends][np.diff(paths.offsets) > 0]
        advantage = value - _baselines(starts, groups, int(trees.tree.max(initial=-1)) + 1)[trees.tree]
    return CreditColumns(value=value, advantage=np.where(trees.parent < 0, 0.0, drop_rounding(advantage)))


def _baselines(starts: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """`[count]` float64: mean of the known returns of each group; 0 where fewer than two are known."""
    known = ~np.isnan(starts)
    several = np.bincount(groups[known], minlength=count) > 1
    return np.where(several, mean_by(groups[known], starts[known], count), 0.0)
