"""Implicit process rewards: an outcome model that is a log-ratio rewards every token by itself, and PRIME's advantage.

Does not know how the model is trained beyond its loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.credit.columns import CreditColumns, Trees, drop_rounding, moments, ranges
from pipeline.credit.ragged import Ragged, last_places, log_ratios, row_sums, rows_of, suffix_sums
from pipeline.credit.spoken import spoken
from pipeline.credit.token_rows import credit_of_tokens, known_throughout, token_rows
from pipeline.errors import BadConfig

NORMALISATIONS = (None, "batch_norm")
"""Process rewards as they are; over their largest return in the batch."""


@dataclass(frozen=True, slots=True)
class ImplicitPrmParams:
    """Parameters of implicit process rewards.

    beta_train: weight of the log-ratio in the loss; rewards and advantages are free of it.
    gamma_process, gamma_outcome: discounts a token.
    normalisation: word of NORMALISATIONS, of the process rewards that enter the advantage.
    whiten: `implicit_prm_credit` gives advantages, with mean 0 and deviation 1 over the batch, and not returns.

    Raises:
        BadConfig: no such normalisation.
    """

    beta_train: float = 0.05
    gamma_process: float = 1.0
    gamma_outcome: float = 1.0
    normalisation: str | None = None
    whiten: bool = True

    def __post_init__(self) -> None:
        if self.normalisation not in NORMALISATIONS:
            culprit = f"implicit_prm normalisation {self.normalisation!r} is not known"
            raise BadConfig(culprit, remedy=f"use one of {NORMALISATIONS}")


DEFAULTS = ImplicitPrmParams()


class ImplicitPrm(NamedTuple):
    """What the model says of `M` responses of `T` tokens in `G` groups; NaN where a log-probability is.

    token_rewards: `[T]`, nats, log-ratio of the model to its reference.
    loss: mean cross-entropy of the outcomes of responses whose tokens are all known, nats; NaN without one.
    accuracy: `[G]` in [0, 1], see `pairwise_accuracy`.
    returns: `[T]`, discounted process and outcome rewards, each less what the others of the group earn.
    advantages: `[T]`, returns with mean 0 and deviation 1 over the batch.
    """

    token_rewards: np.ndarray
    loss: float
    accuracy: np.ndarray
    returns: np.ndarray
    advantages: np.ndarray


def implicit_prm(
    model: Ragged,
    reference: Ragged,
    *,
    outcomes: np.ndarray,
    groups: np.ndarray,
    params: ImplicitPrmParams = DEFAULTS,
) -> ImplicitPrm:
    """Reward and credit the tokens of a batch of responses.

    Each source has a leave-one-out baseline: the mean a response of the group earns at the places where it is paid,
    which are all tokens for the process and the last one for the outcome. A group of one has none.

    Args:
        model: natural log-probabilities under the outcome model, a row a response.
        reference: of the same tokens.
        outcomes: `[M]` float64 in [0, 1].
        groups: `[M]` int, code of each response's group, from 0.
        params: beta, discounts, normalisation.

    Raises:
        BadTable: a response has not the same tokens under both models; names its row.

    Source: Free Process Rewards without Process Labels (Yuan et al., 2024) and PRIME (Cui et al., 2025) as its code
        computes them. Deviation: a source that is mere rounding counts as 0.
    """
    offsets = model.offsets
    rewards = log_ratios(model, reference, names=("the outcome model", "the reference"))
    scores = row_sums(rewards, offsets)
    logits = params.beta_train * scores
    loss = np.maximum(logits, 0.0) + np.log1p(np.exp(-np.abs(logits))) - outcomes * logits
    known = ~np.isnan(loss)

    process = rewards
    if params.normalisation == "batch_norm" and len(rewards):
        process = rewards / (np.abs(suffix_sums(rewards, offsets)).max() + 1e-6)
    earned = row_sums(process, offsets) / np.maximum(np.diff(offsets), 1)
    process = drop_rounding(_less_others(process, earned, groups, rows_of(offsets)))
    rows, last = last_places(offsets)
    outcome = np.zeros(len(rewards))
    outcome[last] = drop_rounding(_less_others(outcomes[rows], outcomes, groups, rows))
    returns = suffix_sums(process, offsets, discount=params.gamma_process)
    returns = returns + suffix_sums(outcome, offsets, discount=params.gamma_outcome)
    return ImplicitPrm(
        token_rewards=rewards,
        loss=float(loss[known].mean()) if known.any() else np.nan,
        accuracy=pairwise_accuracy(scores, outcomes, groups),
        returns=returns,
        advantages=_whiten(returns),
    )


def step_rewards(token_rewards: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """`[S]` float64, nats: sum over each step; 0 for an empty one.

    Args:
        token_rewards: `[T]`, of `implicit_prm`.
        steps: `[S + 1]` int64, where the tokens of each step begin.
    """
    return row_sums(token_rewards, steps)


def pairwise_accuracy(scores: np.ndarray, outcomes: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """How often the better of two responses has the higher score.

    Over the pairs of a group with different outcomes, weighted by how different. Of a pair with equal scores the
    second in stored order counts as the higher, as in the authors' code.

    Args:
        scores: `[M]` float64.
        outcomes: `[M]` float64.
        groups: `[M]` int, codes from 0.

    Returns:
        `[G]` float64 in [0, 1]; 0.5 for a group of equal outcomes.
    """
    count = int(groups.max(initial=-1)) + 1
    order = np.argsort(groups, kind="stable")
    ends = np.cumsum(np.bincount(groups, minlength=count))
    places = np.arange(len(order))
    later = ends[groups[order]] - places - 1
    first, second = order[np.repeat(places, later)], order[ranges(places + 1, later)]
    weight = np.abs(outcomes[first] - outcomes[second])
    right = (scores[first] > scores[second]) == (outcomes[first] > outcomes[second])
    total, good = (np.bincount(groups[first], column, count) for column in (weight, weight * right))
    return np.divide(good, total, out=np.full(count, 0.5), where=total > 0)


def implicit_prm_credit(trees: Trees, params: ImplicitPrmParams = DEFAULTS) -> CreditColumns:
    """PRIME's credit of the tokens of trees, the verdicts being the outcomes.

    A response is what the policy said along the path to a judged leaf. One of which a token was not scored by both
    models takes no part in its group.

    Args:
        trees: `N` nodes, given `kind`, `origin`, `prm_logprobs` and `reference_logprobs`. The batch is all of them.
        params: see there.

    Returns:
        advantage: `[N]` float64, mean over the node's tokens; 0 where the policy said nothing, NaN where there is no
            token or no response that takes part.
        token_advantages: `[T]` float64, mean over the responses through the token; 0 where the policy said nothing, NaN
            where none takes part.

    Source: as `implicit_prm`.
    """
    found = known_throughout(trees, spoken(trees, judged=True), "prm_logprobs", "reference_logprobs")
    rows = token_rows(trees, found)
    model, reference = rows.of(trees.given["prm_logprobs"]), rows.of(trees.given["reference_logprobs"])
    said = implicit_prm(model, reference, outcomes=trees.reward[found.ends], groups=found.tasks, params=params)
    return credit_of_tokens(trees, rows, said.advantages if params.whiten else said.returns)


def _less_others(values: np.ndarray, earned: np.ndarray, groups: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Values of some rows, `size / (size - 1)` times themselves less the group's total over `size - 1`."""
    size, total = np.bincount(groups)[groups][rows], np.bincount(groups, earned)[groups][rows]
    return np.where(size > 1, (values * size - total) / np.maximum(size - 1, 1), values)


def _whiten(values: np.ndarray) -> np.ndarray:
    """Mean 0 and unbiased deviation 1 over the known values; 0 where they are equal."""
    known, white = ~np.isnan(values), np.full(len(values), np.nan)
    of = moments(values[known], np.zeros(int(known.sum()), np.int64), count=1, ddof=1)
    white[known] = of.centred / np.sqrt(np.nan_to_num(of.std[0]) ** 2 + 1e-8)
    return white
