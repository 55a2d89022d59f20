"""LaRe: an episode's return spread over its steps, by what a decoder makes of factors that a written function gives.

Does not know who wrote the function, nor runs it: its factors come as numbers. The decoder here is linear; a network
is trained elsewhere on the same losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.credit.columns import CreditColumns, Trees, moments
from pipeline.credit.ragged import row_sums, rows_of
from pipeline.credit.spoken import expected, lay_steps, spoken
from pipeline.errors import BadConfig, check_words

LOSSES = ("rd", "rrd", "rrd_unbiased")
"""Over all steps of an episode; over some; the same less the variance that drawing them adds."""


@dataclass(frozen=True, slots=True)
class LaReParams:
    """Parameters of LaRe.

    loss: word of LOSSES.
    sampled: K, steps drawn of each episode.
    verified_rows: recorded steps that a written function is tried on.

    Raises:
        BadConfig: no such loss, or nothing to draw.
    """

    loss: str = "rd"
    sampled: int = 64
    verified_rows: int = 2

    def __post_init__(self) -> None:
        check_words(self, of="lare", loss=LOSSES)
        if self.sampled < 1:
            raise BadConfig(f"lare draws {self.sampled} steps", remedy="draw one or more")


DEFAULTS = LaReParams()


def rejection(factors: Sequence[np.ndarray] | str, params: LaReParams = DEFAULTS) -> str | None:
    """Why a written function is sent back to its author, after a trial in a sandbox. None: it is not.

    Args:
        factors: what the trial gave, an array a factor; or the text of the error it ended with.
        params: how many rows it was tried on.
    """
    if isinstance(factors, str):
        return factors or "it failed"
    if not factors:
        return "it gave no factor"
    wanted = (params.verified_rows, 1)
    for place, factor in enumerate(factors):
        if np.shape(factor) != wanted:
            return f"factor {place} has shape {np.shape(factor)}; expected {wanted}"
    return None


def linear_rewards(latent: np.ndarray, *, weight: np.ndarray, bias: float = 0.0) -> np.ndarray:
    """`[P]` float64: reward of each step under a linear decoder.

    Args:
        latent: `[P, K]` float64, factors of each step.
        weight: `[K]` float64.
        bias: added at every step.
    """
    return latent @ weight + bias


def redistributed_returns(rewards: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """`[M]` float64: sum of each episode's step rewards, over all its agents where it has several."""
    return row_sums(rewards, offsets)


def standardised_returns(returns: np.ndarray, families: np.ndarray) -> np.ndarray:
    """`[M]` float64: returns less their task family's mean over its standard deviation; 0 in a family of equals.

    Args:
        returns: `[M]` float64, of episodes.
        families: `[M]` int, code of each one's family, from 0.
    """
    of = moments(returns, families, count=int(families.max(initial=-1)) + 1, ddof=0)
    return of.centred / np.where(of.alike, 1.0, of.std)[families]


def return_loss(rewards: np.ndarray, returns: np.ndarray, *, offsets: np.ndarray) -> float:
    """RD: mean over episodes of (mean step reward - return / length)^2.

    Args:
        rewards: `[P]` float64, of the decoder.
        returns: `[M]` float64, of the episodes.
        offsets: `[M + 1]` int64, where the steps of each begin; an episode without steps is left out.

    Returns:
        NaN where no episode has a step.

    Source: LaRe (AAAI 2025) as its code computes it, as are the other losses.
    """
    lengths = np.diff(offsets)
    errors = (row_sums(rewards, offsets) - returns) / np.maximum(lengths, 1)
    return _mean(errors[lengths > 0] ** 2)


def sampled_return_loss(
    rewards: np.ndarray,
    returns: np.ndarray,
    *,
    offsets: np.ndarray,
    sampled: np.ndarray,
    sampled_offsets: np.ndarray,
    unbiased: bool = False,
) -> float:
    """RRD: the same with the mean over some steps of each episode, which the whole length's target is held against.

    Args:
        rewards, returns, offsets: as of `return_loss`.
        sampled: `[S]` int, steps of each episode, from 0 at its first; a step may be there more than once.
        sampled_offsets: `[M + 1]` int64, where those of each episode begin; one without is left out.
        unbiased: less the mean over episodes of `variance * (1 - K / T) / K`, with K - 1 in the variance, which is 0
            for K = 1. Negative for K > T.
    """
    lengths, drawn = np.diff(offsets), np.diff(sampled_offsets)
    some = drawn > 0
    episode = rows_of(sampled_offsets)
    values = rewards[offsets[:-1][episode] + sampled]
    mean = row_sums(values, sampled_offsets) / np.maximum(drawn, 1)
    loss = _mean((mean - returns / np.maximum(lengths, 1))[some] ** 2)
    if not unbiased:
        return loss
    squares = row_sums((values - mean[episode]) ** 2, sampled_offsets)
    variance = squares / np.maximum(drawn - 1, 1)
    excess = variance * (1.0 - drawn / np.maximum(lengths, 1)) / np.maximum(drawn, 1)
    return loss - _mean(excess[some])


def lare_loss(
    rewards: np.ndarray, returns: np.ndarray, *, offsets: np.ndarray, seed: int, params: LaReParams = DEFAULTS
) -> float:
    """The loss that the parameters name, over steps drawn from a seed where it needs some; arguments as above."""
    if params.loss == "rd":
        return return_loss(rewards, returns, offsets=offsets)
    sampled, sampled_offsets = draw_steps(offsets, seed=seed, params=params)
    return sampled_return_loss(
        rewards,
        returns,
        offsets=offsets,
        sampled=sampled,
        sampled_offsets=sampled_offsets,
        unbiased=params.loss == "rrd_unbiased",
    )


def draw_steps(offsets: np.ndarray, *, seed: int, params: LaReParams = DEFAULTS) -> tuple[np.ndarray, np.ndarray]:
    """Steps of each episode, K of them: without a step twice, unless the episode is shorter than K.

    Args:
        offsets: `[M + 1]` int64, where the steps of each episode begin; one without steps has none drawn.
        seed: of the draw.
        params: K.

    Returns:
        sampled: `[S]` int64, steps from 0 at the episode's first.
        offsets: `[M + 1]` int64, where those of each episode begin.
    """
    random, lengths, wanted = np.random.default_rng(seed), np.diff(offsets), params.sampled
    episode = rows_of(offsets)
    mixed = np.lexsort((random.random(len(episode)), episode))  # the steps of each episode in random order
    rank = np.arange(len(episode)) - np.repeat(offsets[:-1], lengths)
    drawn = np.where(lengths > 0, wanted, 0)
    sampled_offsets = np.concatenate(([0], np.cumsum(drawn)))
    owner = rows_of(sampled_offsets)
    again = np.floor(random.random(len(owner)) * lengths[owner]).astype(np.int64)  # with repeats, for the short ones
    once = np.repeat(lengths >= wanted, drawn)
    again[once] = (mixed - np.repeat(offsets[:-1], lengths))[(rank < wanted) & (lengths >= wanted)[episode]]
    return again, sampled_offsets


def lare_credit(trees: Trees, params: LaReParams = DEFAULTS) -> CreditColumns:
    """Credit the steps of trees with the rewards of a decoder, every path to a leaf being an episode.

    Needs `latent_reward` and `kind`. Verdicts are not looked at: the decoder was fitted to returns.

    Args:
        trees: `N` nodes.
        params: of the fit, which is done by now; none changes anything here.

    Returns:
        value: `[N]` float64, mean redistributed return of the episodes through the node whose steps all have a
            reward; NaN where there is none, and at rendered nodes.
        advantage: `[N]` float64, reward of the step; 0 where the policy said nothing, NaN where it has none.

    Source: LaRe (AAAI 2025), rewards and returns as its code has them.
    """
    found = spoken(trees)
    rewards = trees.given["latent_reward"][found.paths.nodes]
    return CreditColumns(
        value=expected(trees, found, redistributed_returns(rewards, found.paths.offsets)),
        advantage=lay_steps(trees, found.paths.nodes, rewards),
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
