"""EPO: a strategy turn is worth the key turns still to come, discounted, beside the best turn of its episode.

Does not know the judge who picks the key turns, nor the turns of the environment: rows are strategy turns alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.credit.columns import CreditColumns, Trees
from pipeline.credit.ragged import last_places, row_sums, rows_of, suffix_sums
from pipeline.credit.scored import one_of
from pipeline.credit.spoken import lay_steps, spoken


@dataclass(frozen=True, slots=True)
class EpoParams:
    """Parameters of EPO.

    gamma: discount of a turn's process reward at the turn before it.
    score_divisor: brings the episode's score to the size of a key turn's 1; 10 for SOTOPIA, 1 for WebShop and ALFWorld.
    first_turn_is_key: the first turn counts as a key turn, as in some environments.
    """

    gamma: float = 0.99
    score_divisor: float = 10.0
    first_turn_is_key: bool = False


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


def epo_credit(trees: Trees, params: EpoParams = DEFAULTS) -> CreditColumns:
    """Credit the turns of the judged episodes of trees, a verdict being the episode's score.

    Needs `key_turn` and `kind`. Every node that the policy said is a strategy turn, which is key where a judge says 1.
    The published loss, a likelihood weighted turn by turn, is the policy gradient with these advantages.

    Args:
        trees: `N` nodes.
        params: discount and divisor; verdicts are in [0, 1], so 1 where they are not tens.

    Returns:
        value: `[N]` float64, discounted process reward from the turn on; NaN at roots and rendered nodes.
        advantage: `[N]` float64 in [-1, 1], the turn's weight; 0 where the policy said nothing. Both are means over the
            episodes through the node, NaN where none is judged.

    Raises:
        BadScore: `key_turn` is not 1 or 0.

    Source: as `turn_weights`. Deviation: the paper's episodes share no turn.
    """
    key = one_of(trees, "key_turn") == 1
    found = spoken(trees, judged=True)
    weights = turn_weights(key[found.paths.nodes], trees.reward[found.ends], offsets=found.paths.offsets, params=params)
    return CreditColumns(
        value=lay_steps(trees, found.paths.nodes, weights.discounted, unsaid=np.nan),
        advantage=lay_steps(trees, found.paths.nodes, weights.weight),
    )
