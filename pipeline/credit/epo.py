"""EPO: a strategy turn is worth the key turns still to come, discounted, beside the best turn of its episode.

Does not know the judge who picks the key turns, nor the turns of the environment: rows are strategy turns alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.credit.ragged import last_places, row_sums, rows_of, suffix_sums


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
