"""OPRL (iStar): steps earn the log-ratio of a reward model trained on the fly to the policy, beside the episode.

Does not know either model: the log-ratios of their tokens come as numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.credit.columns import CreditColumns, Trees, mean_by, ranges
from pipeline.credit.normalise import FORMS, lone, normalise, whiten
from pipeline.credit.ragged import Ragged, row_sums, rows_of
from pipeline.credit.spoken import lay_steps, spoken
from pipeline.credit.token_rows import known_throughout, token_rows
from pipeline.errors import check_words

ESTIMATORS = (*FORMS, "reinforce_pp")
"""Those of `normalise`; and less the mean, the sum then whitened over all tokens."""
BASELINES = ("all_steps", "first_steps")
"""A step's baseline: all steps of the group, as the paper has it, or the first of each trajectory, as the code has
it."""
STEP_NORMS = ("batch_norm", "none")
"""Step rewards over the largest of the batch, or as they are."""
SCORES = ("mean", "sum")
"""A trajectory's score: the mean over its steps, as the code has it, or their sum, as the paper has it."""


@dataclass(frozen=True, slots=True)
class OprlParams:
    """Parameters of OPRL.

    beta: weight of the log-ratio, in reward units a nat.
    step_norm: word of STEP_NORMS.
    batch_norm_eps: added to the largest.
    batch_norm_floor: least divisor, so that rounding is not blown up while both models are still the same; 0: none.
    estimator: word of ESTIMATORS, for episodes and for steps. The paper and the code use `rloo`.
    baseline: word of BASELINES.
    step_advantage_w: weight of the step advantage beside the episode's.
    epsilon, ddof: of the standard deviations.
    score: word of SCORES.
    success_above: outcomes above it are successes.

    Raises:
        BadConfig: a word is not known.
    """

    beta: float = 0.05
    step_norm: str = "batch_norm"
    batch_norm_eps: float = 1e-6
    batch_norm_floor: float = 0.0
    estimator: str = "mean_norm"
    baseline: str = "all_steps"
    step_advantage_w: float = 1.0
    epsilon: float = 1e-6
    ddof: int = 1
    score: str = "mean"
    success_above: float = 0.0

    def __post_init__(self) -> None:
        check_words(self, of="oprl", estimator=ESTIMATORS, baseline=BASELINES, step_norm=STEP_NORMS, score=SCORES)


DEFAULTS = OprlParams()


class StepRewards(NamedTuple):
    """raw: `[P]`, beta times the summed log-ratio, reward units; 0 for a step without tokens. normalised: `[P]`."""

    raw: np.ndarray
    normalised: np.ndarray


class StepAdvantages(NamedTuple):
    """Of `P` steps.

    episode, step: `[P]`, of its trajectory and its own.
    advantage: `[P]`, the first plus the weighted second; whitened under `reinforce_pp`.
    degenerate: `[P]` bool, the only trajectory of its group.
    """

    episode: np.ndarray
    step: np.ndarray
    advantage: np.ndarray
    degenerate: np.ndarray


class Preferences(NamedTuple):
    """winner, loser: `[K]` int64, trajectories of every pair of a success and a failure of a group."""

    winner: np.ndarray
    loser: np.ndarray


def step_rewards(log_ratios: Ragged, *, params: OprlParams = DEFAULTS) -> StepRewards:
    """What the reward model says of `P` steps of a batch.

    Args:
        log_ratios: a row a step; log-probability of each token under the reward model less that under the policy that
            sampled it, in nats, no NaN.
        params: see there.

    Source: OPRL (2025) and its code. Deviation: the largest is that of all rows, not of a worker's.
    """
    raw = params.beta * row_sums(log_ratios.values, log_ratios.offsets)
    if params.step_norm == "none":
        return StepRewards(raw, raw)
    divisor = max(np.abs(raw).max(initial=0.0) + params.batch_norm_eps, params.batch_norm_floor)
    return StepRewards(raw, raw / divisor if divisor else raw)


def step_advantages(
    rewards: np.ndarray,
    outcomes: np.ndarray,
    *,
    offsets: np.ndarray,
    tasks: np.ndarray,
    token_counts: np.ndarray,
    params: OprlParams = DEFAULTS,
) -> StepAdvantages:
    """Add a step's advantage to that of its episode.

    Args:
        rewards: `[P]` float64, of the steps, trajectory after trajectory.
        outcomes: `[M]` float64, of the trajectories, no NaN.
        offsets: `[M + 1]` int64, where each trajectory begins.
        tasks: `[M]` int, code of the task from 0: the group.
        token_counts: `[P]` int, tokens of the steps; only `reinforce_pp` looks at them.
        params: see there.

    Returns:
        In a group of one, outcome and step rewards stay as they are with the baseline over first steps, as in the
        code; with the one over all steps their means are taken off as in any group.

    Source: OPRL (2025); the code's forms are those with `first_steps`. Deviation: equal rewards give exactly 0.
    """
    form = "mean_norm" if params.estimator == "reinforce_pp" else params.estimator
    first_steps = params.baseline == "first_steps"
    forms = {"form": form, "eps": params.epsilon, "ddof": params.ddof, "keep_lone": first_steps}
    count = int(tasks.max()) + 1 if len(tasks) else 0
    trajectory = rows_of(offsets)
    members = offsets[:-1][np.diff(offsets) > 0] if first_steps else None
    episode = normalise(outcomes, tasks, count=count, **forms)[trajectory]
    step = normalise(rewards, tasks[trajectory], count=count, members=members, **forms)
    advantage = episode + params.step_advantage_w * step
    if params.estimator == "reinforce_pp":
        advantage = whiten(advantage, token_counts, ddof=params.ddof)
    return StepAdvantages(episode, step, advantage, lone(tasks, count=count)[trajectory])


def trajectory_scores(raw: np.ndarray, offsets: np.ndarray, *, params: OprlParams = DEFAULTS) -> np.ndarray:
    """`[M]` float64: what the reward model says of trajectories, reward units; 0 of one without steps.

    Args:
        raw: `[P]` float64, step rewards before they are normalised.
        offsets: `[M + 1]` int64, where each trajectory begins.
        params: which score.
    """
    if params.score == "sum":
        return row_sums(raw, offsets)
    return np.nan_to_num(mean_by(rows_of(offsets), raw, len(offsets) - 1))


def preference_pairs(outcomes: np.ndarray, tasks: np.ndarray, *, params: OprlParams = DEFAULTS) -> Preferences:
    """Every success with every failure of its group, group after group, successes in order.

    Args:
        outcomes: `[M]` float64.
        tasks: `[M]` int, code of the task from 0.
        params: which outcome is a success.
    """
    order = np.argsort(tasks, kind="stable")
    won = outcomes[order] > params.success_above
    winners, losers = order[won], order[~won]
    count = int(tasks.max()) + 1 if len(tasks) else 0
    lost = np.bincount(tasks[losers], minlength=count)
    begins, each = (np.cumsum(lost) - lost)[tasks[winners]], lost[tasks[winners]]
    return Preferences(np.repeat(winners, each), losers[ranges(begins, each)])


def prm_loss(scores: np.ndarray, pairs: Preferences) -> float:
    """Mean of `-log sigmoid(winner's score - loser's)` over pairs, in nats; 0 without any.

    Args:
        scores: `[M]` float64, of `trajectory_scores`.
        pairs: of a batch.
    """
    if not len(pairs.winner):
        return 0.0
    return float(np.logaddexp(0.0, scores[pairs.loser] - scores[pairs.winner]).mean())


def oprl_credit(trees: Trees, params: OprlParams = DEFAULTS) -> CreditColumns:
    """Credit the steps of trees, the verdict being the outcome.

    A trajectory is what the policy said along the path to a judged leaf. One of which the reward model did not score
    every sampled token takes no part in its group.

    Args:
        trees: `N` nodes, given `kind`, `origin`, `prm_logprobs` and `logprobs`. The batch is all of them.
        params: see there.

    Returns:
        advantage: `[N]` float64, mean over the trajectories through the node; 0 where the policy said nothing, NaN
            where none takes part.

    Source: as `step_rewards` and `step_advantages`. Deviation: the paper samples trajectories that share no step.
    """
    policy, model = trees.given["logprobs"], trees.given["prm_logprobs"]
    sampled = ~np.isnan(policy)
    found = known_throughout(trees, spoken(trees, judged=True), "prm_logprobs", counted=sampled)
    ratios = token_rows(trees, found, counted=sampled).by_step(model - policy)
    steps = step_advantages(
        step_rewards(ratios, params=params).normalised,
        trees.reward[found.ends],
        offsets=found.paths.offsets,
        tasks=found.tasks,
        token_counts=np.diff(ratios.offsets),
        params=params,
    )
    return CreditColumns(advantage=lay_steps(trees, found.paths.nodes, steps.advantage))
