"""Choosing one of several answers to a task: by a score, by a vote, by both, or by knowing which is right.

Scores and verdicts come in; the model that gives them is not known here.
"""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np

SELECTORS = ("best", "majority", "weighted", "oracle")
"""The answer scored highest; the one given most often; the one with most score behind it; a right one if there is."""
MOST_SUBSETS = 128
"""Of the answers to a task, looked at for each size; where there are more, as many are drawn."""


def chosen_rewards(
    rewards: np.ndarray, answers: np.ndarray, scores: np.ndarray, *, size: int, selector: str
) -> np.ndarray:
    """The reward that a choice among `size` answers earns, in the mean over the subsets of those there are.

    Equals share: of answers that are as good, each is taken as often. An answer that could not be read has no vote;
    a score that is not known is below all others and adds nothing to a vote.

    Args:
        rewards: `[Q, N]` float64 in [0, 1], of `N` answers to each of `Q` tasks; NaN where unjudged.
        answers: `[Q, N]` int, a code for what the answer says, the same in a task for the same; -1: could not be read.
        scores: `[Q, N]` float64, 0 or more; NaN: not scored.
        size: from 1 to `N`.
        selector: word of SELECTORS. `oracle` is pass@size; `best` and `majority` are best-of-n and self-consistency;
            `weighted` sums the scores of equal answers.

    Returns:
        `[Q]` float64; NaN where an answer is unjudged.

    Source: self-consistency (Wang et al., 2023), weighted as by Li et al. (2023, DiVeRSe).
    """
    some = _subsets(rewards.shape[1], size)
    found = np.zeros(len(rewards))
    for places in some:
        reward, answer, score = rewards[:, places], answers[:, places], scores[:, places]
        alike = ((answer[:, :, None] == answer[:, None, :]) & (answer[:, None, :] >= 0)).astype(np.float64)
        count = alike.sum(axis=2)
        match selector:
            case "best":
                merit, share = np.where(np.isnan(score), -np.inf, score), np.ones_like(score)
            case "majority":
                merit, share = count, 1.0 / np.maximum(count, 1.0)
            case "weighted":
                merit, share = (alike * np.nan_to_num(score)[:, None, :]).sum(axis=2), 1.0 / np.maximum(count, 1.0)
            case "oracle":
                merit, share = reward, np.ones_like(score)
            case _:
                raise ValueError(f"selector {selector!r} is none of {SELECTORS}")
        top = merit.max(axis=1, keepdims=True)
        taken = share * ((merit == top) | np.isclose(merit, top, rtol=1e-12, atol=0.0))
        found += (taken * reward).sum(axis=1) / taken.sum(axis=1)
    return np.where(np.isnan(rewards).any(axis=1), np.nan, found / len(some))


def _subsets(count: int, size: int) -> np.ndarray:
    """`[S, size]` places: all subsets, or MOST_SUBSETS drawn ones, always the same."""
    if not 1 <= size <= count:
        raise ValueError(f"{size} of {count} answers cannot be taken")
    if comb(count, size) <= MOST_SUBSETS:
        return np.array(list(combinations(range(count), size)))
    draw = np.random.default_rng(0)
    return np.stack([draw.choice(count, size, replace=False) for _ in range(MOST_SUBSETS)])
