"""EPO: a strategy turn is worth the key turns still to come, discounted, beside the best turn of its episode.

Does not know the judge who picks the key turns, nor the turns of the environment: rows are strategy turns alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.credit.columns import CreditColumns, Trees
from pipeline.credit.ragged import last_places, row_sums, rows_of, suffix_sums
from pipeline.credit.scored import one_of, refuse
from pipeline.credit.sotopia_rl import RANGES
from pipeline.credit.spoken import chosen, lay_steps, spoken
from pipeline.errors import check_words

OUTCOMES = ("verdict", "goal")


@dataclass(frozen=True, slots=True)
class EpoParams:
    """Parameters of EPO.

    outcome: word of OUTCOMES, an episode's score: its verdict, or, where nobody judges a dialogue, what the judge
        `sotopia_rl` gave the speaker for its goal, a tenth of it.
    gamma: discount of a turn's process reward at the turn before it.
    score_divisor: brings the episode's score to the size of a key turn's 1; 10 for SOTOPIA, 1 for WebShop and ALFWorld.
    first_turn_is_key: the first turn counts as a key turn, as in some environments.
    """

    outcome: str = "verdict"
    gamma: float = 0.99
    score_divisor: float = 10.0
    first_turn_is_key: bool = False

    def __post_init__(self) -> None:
        check_words(self, of="epo", outcome=OUTCOMES)


DEFAULTS = EpoParams()


class TurnWeights(NamedTuple):
    """Of `P` strategy turns, `[P]` float64 each.

    process_reward: 1 for a key turn, else the episode's score over the divisor for the last turn, else 0.
    discounted: process reward plus gamma times that of the next turn. weight: in [-1, 1], `discounted` over the
    episode's largest magnitude; 0 in an episode that has none.
    """

    process_reward: np.ndarray
    discounted: np.ndarray
    weight: np.ndarray


def turn_weights(
    key: np.ndarray, scores: np.ndarray, *, offsets: np.ndarray, params: EpoParams = DEFAULTS
) -> TurnWeights:
    """Weights of the strategy turns of episodes.

    Args:
        key: `[P]` bool, the judge picked the turn; a picked last turn has 1 and not the score.
        scores: `[M]` float64, of the episodes; may be negative, which turns keep. NaN: unknown, and so are the weights
            of its turns unless the last is a key turn.
        offsets: `[M + 1]` int64, where the turns of each episode begin.
        params: discount and divisor.

    Source: EPO (ACL 2025) as its code computes it.
    """
    episodes, last = last_places(offsets)
    process = np.zeros(len(key))
    process[last] = scores[episodes] / params.score_divisor
    process[key] = 1.0
    if params.first_turn_is_key:
        process[offsets[episodes]] = 1.0
    discounted = suffix_sums(process, offsets, discount=params.gamma)
    largest = np.zeros(len(offsets) - 1)
    np.maximum.at(largest, rows_of(offsets), np.abs(np.nan_to_num(discounted)))
    scale = np.where(largest > 0, largest, 1.0)
    return TurnWeights(process, discounted, discounted / scale[rows_of(offsets)])


def turns_that_fit(lengths: np.ndarray, *, offsets: np.ndarray, limit: int) -> np.ndarray:
    """`[P]` bool: the turns that end within a context limit; a turn is in whole or not at all.

    Args:
        lengths: `[P]` int, tokens each turn adds to its episode, what was observed before it included.
        offsets: `[M + 1]` int64, where the turns of each episode begin.
        limit: tokens of a context.
    """
    total = np.concatenate(([0], np.cumsum(lengths)))
    return total[1:] - np.repeat(total[offsets[:-1]], np.diff(offsets)) <= limit


def episode_losses(
    weights: np.ndarray,
    logprobs: np.ndarray,
    *,
    token_offsets: np.ndarray,
    offsets: np.ndarray,
    kept: np.ndarray | None = None,
) -> np.ndarray:
    """Weighted negative log-likelihood of each episode: the mean over its turns of weight times mean log-probability.

    The loss of a batch is the sum over its episodes.

    Args:
        weights: `[P]` float64, of `turn_weights`.
        logprobs: `[T]` float64, natural log-probability of the tokens of the turns, turn after turn.
        token_offsets: `[P + 1]` int64, where the tokens of each turn begin; a turn without tokens adds 0.
        offsets: `[M + 1]` int64, where the turns of each episode begin.
        kept: `[P]` bool, of `turns_that_fit`; other turns do not count. None: all are kept.

    Returns:
        `[M]` float64; 0 for an episode without turns, NaN where a log-probability or a weight that counts is unknown.
    """
    kept = np.ones(len(weights), dtype=bool) if kept is None else kept
    mean = row_sums(logprobs, token_offsets) / np.maximum(np.diff(token_offsets), 1)
    total = row_sums(np.where(kept, weights * mean, 0.0), offsets)
    return -total / np.maximum(row_sums(kept.astype(np.float64), offsets), 1.0) + 0.0  # no negative zero


def epo_needs(params: EpoParams) -> tuple[str, ...]:
    """The INPUTS that `epo_credit` needs."""
    return ("kind", "key_turn", *(("score_goal",) if params.outcome == "goal" else ()))


def epo_credit(trees: Trees, params: EpoParams = DEFAULTS) -> CreditColumns:
    """Credit the turns of the judged episodes of trees.

    Needs what `epo_needs` says. Every node that the policy said is a strategy turn, which is key where a judge says 1.
    The published loss, a likelihood weighted turn by turn, is the policy gradient with these advantages.

    Args:
        trees: `N` nodes.
        params: outcome, discount and divisor; outcomes are in [0, 1], so 1 where they are not tens.

    Returns:
        value: `[N]` float64, discounted process reward from the turn on; NaN at roots and rendered nodes.
        advantage: `[N]` float64 in [-1, 1], the turn's weight; 0 where the policy said nothing. Both are means over the
            episodes through the node, NaN where none is judged.

    Raises:
        BadScore: `key_turn` is not 1 or 0, or `score_goal` outside its range.

    Source: as `turn_weights`. Deviation: the paper's episodes share no turn.
    """
    key = one_of(trees, "key_turn") == 1
    score = _goals(trees) if params.outcome == "goal" else trees.reward
    every = spoken(trees)
    found = chosen(every, ~np.isnan(score[every.ends]))
    weights = turn_weights(key[found.paths.nodes], score[found.ends], offsets=found.paths.offsets, params=params)
    return CreditColumns(
        value=lay_steps(trees, found.paths.nodes, weights.discounted, unsaid=np.nan),
        advantage=lay_steps(trees, found.paths.nodes, weights.weight),
    )


def _goals(trees: Trees) -> np.ndarray:
    """`[N]` float64 in [0, 1]: what a judge gave leaves for their goal; NaN: nothing."""
    goals, (least, most) = trees.given["score_goal"], RANGES["goal"]
    good = np.isnan(goals) | ((goals >= least) & (goals <= most))
    refuse(goals, good, name="score_goal", what=f"from {least} to {most}")
    return goals / most
