"""PURE: a trajectory is worth its worst step, so step rewards are weighted by how low they are before they are summed.

Does not know where the step rewards come from. The authors' second implementation is `pure_padded`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from pipeline.credit.columns import CreditColumns, Trees, drop_rounding, mean_by, moments, ranges
from pipeline.credit.ragged import Ragged, last_places, require_same_rows, row_sums, rows_of, suffix_minima, suffix_sums
from pipeline.errors import BadConfig, check_words

MODES = ("PRM", "VR", "PRMVR")
"""Step rewards; the verdict; both."""
BASELINES = ("token", "step")
"""What the others of a group earn a token, taken from each of a step's tokens but the closing one; what they earn a
step, taken from each step."""


@dataclass(frozen=True, slots=True)
class PureParams:
    """Parameters of PURE.

    reward_mode: word of MODES.
    baseline: word of BASELINES.
    verifiable_coef: weight of the verdict.
    verifiable_share: of the tasks, rounded up, whose verdicts are known; those of the others count as solved.
    verifiable_seed: draws them, by their places in the batch.
    temperature: of the weights; toward 0 the sum of a trajectory is its least step reward.
    weighted: False gives every step of a trajectory the same weight.
    average: that weight is one over the number of steps, as in the code; False: it is 1, the sum that the paper
        compares with.
    zero_advantage_on_step_end: the token that closes a step has no advantage.
    kl_coef: weight of the log-ratio to the reference in the reward, where log-ratios are given.
    advantage_whitening: advantages have mean 0 and deviation 1 over the batch.

    Raises:
        BadConfig: no such mode or baseline, a temperature that is not above 0, or a share that is none.
    """

    reward_mode: str = "PRMVR"
    baseline: str = "token"
    verifiable_coef: float = 1.0
    verifiable_share: float = 1.0
    verifiable_seed: int = 0
    temperature: float = 0.1
    weighted: bool = True
    average: bool = True
    zero_advantage_on_step_end: bool = True
    kl_coef: float = 0.001
    advantage_whitening: bool = True

    def __post_init__(self) -> None:
        check_words(self, of="pure", reward_mode=MODES, baseline=BASELINES)
        if not self.temperature > 0:
            raise BadConfig(f"pure temperature {self.temperature} is not above 0", remedy="use 0.1")
        if not 0 <= self.verifiable_share <= 1:
            raise BadConfig(f"pure verifiable_share {self.verifiable_share} is no share", remedy="use 0 to 1")


DEFAULTS = PureParams()


class PureCredit(NamedTuple):
    """What PURE says of `M` trajectories of `T` tokens and `K` steps that have a token.

    kept: `[K]` int64, those steps among all given.
    weighted: `[K]` float64, step reward times weight, before any baseline. The offsets of both by trajectory are
        `kept_offsets`, `[M + 1]`.
    outcome: `[M]` float64, sum of `weighted`, near the least step reward; 0 under VR, and without a step.
    offsets: `[M + 1]` int64, where the tokens of each trajectory begin.
    token_rewards: `[T]` float64, the process part on closing tokens, the verdict on the last, less the divergence.
    advantages: `[T]` float64.
    """

    kept: np.ndarray
    kept_offsets: np.ndarray
    weighted: np.ndarray
    outcome: np.ndarray
    offsets: np.ndarray
    token_rewards: np.ndarray
    advantages: np.ndarray


def pure(
    scores: np.ndarray,
    steps: np.ndarray,
    *,
    token_counts: np.ndarray,
    solved: np.ndarray,
    groups: np.ndarray,
    log_ratios: Ragged | None = None,
    params: PureParams = DEFAULTS,
) -> PureCredit:
    """Credit every token of a batch of trajectories.

    Args:
        scores: `[S]` float64 in (-1, 1), P(good) - P(bad) of each step, the steps of `M` trajectories one after the
            other; NaN where unknown, which makes the group unknown unless the mode is VR. Steps without tokens do
            not count.
        steps: `[M + 1]` int64, where the steps of each trajectory begin.
        token_counts: `[S]` int, tokens of each step, the closing one included.
        solved: `[M]` float64, 1 or 0; NaN: no answer is known, which counts as solved.
        groups: `[M]` int, code of each trajectory's group, from 0.
        log_ratios: log-probability of each token under the policy less that under the reference, a row a trajectory.
        params: mode, baseline and the rest.

    Raises:
        BadTable: a trajectory has not as many log-ratios as tokens; names it.

    Source: PURE (Cheng et al., 2025), main branch of its code. Deviations: the whitening counts action tokens only,
        where the code takes padding off too; a group of one has no baseline, where the code divides by 0.
    """
    kept = np.flatnonzero(token_counts > 0)
    trajectory, lengths = rows_of(steps)[kept], np.asarray(token_counts)[kept]
    kept_offsets = np.concatenate(([0], np.cumsum(np.bincount(trajectory, minlength=len(steps) - 1))))
    offsets = np.concatenate(([0], np.cumsum(np.bincount(trajectory, lengths, len(steps) - 1)))).astype(np.int64)
    closing = np.cumsum(lengths) - 1

    weighted = scores[kept] * _weights(scores[kept], kept_offsets, params)
    total = row_sums(weighted, kept_offsets)
    token_rewards = np.zeros(offsets[-1])
    if params.reward_mode != "VR":
        token_rewards[closing] = weighted - _process_baseline(total, kept_offsets, offsets, lengths, groups, params)
    if params.reward_mode != "PRM":
        verdict = np.where(np.isnan(solved), 0.0, solved - 1.0)
        rows, last = last_places(offsets)
        centred = verdict - _mean_of_others(verdict, np.ones(len(verdict)), groups)
        token_rewards[last] += params.verifiable_coef * drop_rounding(centred)[rows]
    if log_ratios is not None:
        require_same_rows(log_ratios.offsets, offsets, names=("the list of log-ratios", "the trajectory"))
        token_rewards -= params.kl_coef * log_ratios.values

    advantages = suffix_sums(token_rewards, offsets)
    ends = closing if params.zero_advantage_on_step_end else closing[:0]
    advantages[ends] = 0.0
    if params.advantage_whitening:
        advantages = _whiten(advantages, ends)
    outcome = np.zeros(len(total)) if params.reward_mode == "VR" else total
    return PureCredit(kept, kept_offsets, weighted, outcome, offsets, token_rewards, drop_rounding(advantages))


def pure_padded(
    token_rewards: Ragged,
    mask: np.ndarray,
    *,
    groups: np.ndarray,
    returns: str = "sum",
    whiten: bool = False,
    width: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The authors' second implementation, whose results depend on how far the batch is padded.

    Args:
        token_rewards: `[T]` float64, a row for each of `M` responses. Those outside the mask count as 0.
        mask: `[T]` bool, True for tokens of the policy.
        groups: `[M]` int, code of each response's group, from 0.
        returns: "sum" for the sum of rewards from the token on; "min" for their minimum, up to the end of the padding,
            whose zeros take part.
        whiten: mean 0 and deviation 1 over the mask.
        width: tokens that every response is padded to. None: the longest row.

    Returns:
        advantages and returns, `[T]` float64 each; 0 outside the mask.

    Raises:
        BadConfig: no such return, or a row is longer than the width.

    Source: PURE (Cheng et al., 2025), branch verl of its code. Deviation: a group of one has the baseline 0.
    """
    offsets, lengths = token_rewards.offsets, np.diff(token_rewards.offsets)
    longest = int(lengths.max(initial=0))
    width = longest if width is None else width
    if width < longest:
        raise BadConfig(f"pure width {width} is less than the longest response, {longest}", remedy="give at least that")
    rewards = np.where(mask, token_rewards.values, 0.0)
    match returns:
        case "sum":
            found = suffix_sums(rewards, offsets)
        case "min":
            found = _padded_minima(rewards, offsets, width)
        case _:
            raise BadConfig(f"pure return {returns!r} is not known", remedy="use 'sum' or 'min'")
    baseline = _mean_of_others(row_sums(found, offsets), np.full(len(lengths), float(width)), groups)
    found = drop_rounding(np.where(mask, found - baseline[rows_of(offsets)], 0.0))
    advantages = found
    if whiten:
        of = moments(found[mask], np.zeros(int(mask.sum()), np.int64), count=1, ddof=1)
        advantages = np.zeros(len(found))
        advantages[mask] = of.centred / np.sqrt(np.nan_to_num(of.std[0]) ** 2 + 1e-8)
    return advantages, found


def pure_credit(trees: Trees, params: PureParams = DEFAULTS) -> CreditColumns:
    """Credit the tokens of the trajectories of some trees, the step labels standing for the reward model.

    A trajectory is the path to a leaf; to a judged one where the mode asks for verdicts and the task's are known; and
    unless the mode is VR, one whose steps with tokens all have a label. The reward of a step is `2 * step_soft - 1`.
    Where several trajectories pass through a node, a token of it has the mean of their advantages. Nothing diverges
    from a reference.

    Args:
        trees: `N` nodes, given `step_soft`. The batch that is whitened is all of them.
        params: mode, baseline and the rest.

    Returns:
        advantage: `[N]` float64, mean over the node's tokens; 0 at roots, NaN where there is no token or no such
            trajectory passes.
        token_advantages: `[T]` float64; 0 in roots, NaN where no such trajectory passes.

    Source: as `pure`.
    """
    verifiable = _verifiable(trees, params)
    ends = np.flatnonzero(trees.leaves() & ~(verifiable & np.isnan(trees.reward)))
    paths, sizes, soft = trees.paths(ends), trees.token_counts(), trees.given["step_soft"]
    if params.reward_mode != "VR":
        unknown = np.isnan(soft[paths.nodes]) & (sizes[paths.nodes] > 0)
        ends = ends[row_sums(unknown, paths.offsets) == 0]
        paths = trees.paths(ends)
    found = pure(
        2.0 * soft[paths.nodes] - 1.0,
        paths.offsets,
        token_counts=sizes[paths.nodes],
        solved=np.where(verifiable, trees.reward, np.nan)[ends],
        groups=trees.tree[ends],
        params=replace(params, kl_coef=0.0),
    )
    places = ranges(trees.token_offsets[paths.nodes], sizes[paths.nodes])
    tokens = mean_by(places, found.advantages, int(trees.token_offsets[-1]))
    root = trees.parent < 0
    tokens[np.repeat(root, sizes)] = 0.0
    advantage = mean_by(np.repeat(np.arange(len(root)), sizes), tokens, len(root))
    return CreditColumns(advantage=np.where(root, 0.0, drop_rounding(advantage)), token_advantages=tokens)


def _verifiable(trees: Trees, params: PureParams) -> np.ndarray:
    """`[N]` bool: nodes of the tasks whose verdicts count."""
    if params.reward_mode == "PRM":
        return np.zeros(len(trees.tree), bool)
    count = int(trees.tree.max(initial=-1)) + 1
    drawn = np.random.default_rng(params.verifiable_seed).permutation(count)
    return (drawn < np.ceil(params.verifiable_share * count))[trees.tree]


def _weights(scores: np.ndarray, offsets: np.ndarray, params: PureParams) -> np.ndarray:
    """`[K]`: weight of each step within its trajectory; they sum to 1, unless neither weighted nor averaged."""
    row, sizes = rows_of(offsets), np.diff(offsets)
    if not params.weighted:
        return 1.0 / sizes[row] if params.average else np.ones(len(scores))
    lowest = np.full(len(sizes), np.inf)
    np.fmin.at(lowest, row, scores)
    power = np.exp((lowest[row] - scores) / params.temperature)
    return power / row_sums(power, offsets)[row]


def _process_baseline(
    total: np.ndarray,
    steps: np.ndarray,
    offsets: np.ndarray,
    lengths: np.ndarray,
    groups: np.ndarray,
    params: PureParams,
) -> np.ndarray:
    """`[K]`: what is taken from the process reward of each step."""
    row, sizes = rows_of(steps), np.diff(steps)
    if params.baseline == "token":
        return _mean_of_others(total, np.diff(offsets).astype(np.float64), groups)[row] * (lengths - 1)
    by_step = np.divide(total, sizes, out=np.zeros(len(total)), where=sizes > 0)
    return _mean_of_others(by_step, np.ones(len(total)), groups)[row]


def _mean_of_others(values: np.ndarray, weights: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """`[M]`: sum of the others' values in the group over the sum of their weights; 0 where that is 0."""
    total, weight = (np.bincount(groups, weights=column)[groups] - column for column in (values, weights))
    return np.divide(total, weight, out=np.zeros(len(values)), where=weight > 0)


def _padded_minima(rewards: np.ndarray, offsets: np.ndarray, width: int) -> np.ndarray:
    """`[T]`: least reward from each token to the end of the padding."""
    found, short = suffix_minima(rewards, offsets), np.diff(offsets) < width
    return np.where(short[rows_of(offsets)], np.minimum(found, 0.0), found)


def _whiten(advantages: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Subtract the mean and divide by the deviation of the known ones; both are over as many as there are tokens other
    than `ends`, which are 0 and stay so."""
    count = np.count_nonzero(~np.isnan(advantages)) - len(ends)
    if count == 0:
        return advantages
    mean = np.nansum(advantages) / count
    variance = np.nansum((advantages - mean) ** 2) / count
    white = (advantages - mean) / np.sqrt(max(variance, 1e-8))
    white[ends] = 0.0
    return white
