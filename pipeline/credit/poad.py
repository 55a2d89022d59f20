"""POAD: advantages of tokens from a token critic, whose backup discounts between actions and not inside them.

Does not know the critic: its values come as numbers, one before each token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.credit.columns import CreditColumns, Trees, drop_rounding, moments
from pipeline.credit.ragged import Ragged, decayed_sums, last_places
from pipeline.credit.spoken import spoken
from pipeline.credit.token_rows import credit_of_tokens, token_rows
from pipeline.errors import check_words

VARIANTS = ("poad", "ntpo", "archer")
"""The method; discounting between any two tokens; that, with the value at the last token of the next action in place of
its first, as its repository has under that name."""


@dataclass(frozen=True, slots=True)
class PoadParams:
    """Parameters of POAD.

    variant: word of VARIANTS.
    gamma: discount; 0.99 in the Overcooked runs.
    gae_lambda: decay of the trace a token; 0 gives the plain backup, BAD.
    normalise: `poad_credit` gives normalised advantages, all tokens it sees being the mini-batch.
    norm_eps, norm_ddof: of the deviation that normalised advantages are divided by.

    Raises:
        BadConfig: no such variant.
    """

    variant: str = "poad"
    gamma: float = 0.95
    gae_lambda: float = 0.95
    normalise: bool = False
    norm_eps: float = 1e-8
    norm_ddof: int = 0

    def __post_init__(self) -> None:
        check_words(self, of="poad", variant=VARIANTS)


DEFAULTS = PoadParams()


class TokenAdvantages(NamedTuple):
    """Of `T` tokens.

    advantage: `[T]`, reward units.
    returns:   `[T]`, advantage plus value: what the critic is trained to.
    normalised: `[T]`, standard deviations, all tokens given being the mini-batch.
    """

    advantage: np.ndarray
    returns: np.ndarray
    normalised: np.ndarray


def poad(
    values: Ragged,
    rewards: np.ndarray,
    *,
    done: np.ndarray,
    segments: np.ndarray,
    bootstrap: np.ndarray,
    params: PoadParams = DEFAULTS,
) -> TokenAdvantages:
    """Generalised advantages of the tokens of `P` actions in `M` rollout segments.

    Inside an action a token's error is the next value less its own; that of the last token is
    `reward + gamma * value at the next action - its own`. Errors are summed backwards, decayed by lambda a token and
    by gamma an action. Nothing is taken from behind a done action. An action without tokens has no advantage; to those
    before it it is a state worth its own backup.

    Args:
        values: `T` tokens, a row an action, segment after segment; the critic's value before each token. NaN where
            unknown, as is then whatever rests on it.
        rewards: `[P]` float64, of the actions.
        done: `[P]` bool, the episode ended with the action; it may in the middle of a segment.
        segments: `[M + 1]` int64, where each segment begins among the actions.
        bootstrap: `[M]` float64, value of the observation after the segment; not looked at where it ends in done.
        params: see there.

    Returns:
        `normalised` leaves tokens of advantage 0 out of mean and deviation, but moves them like the others; it is 0
        where all advantages are.

    Source: POAD (Wen et al., 2024) and its code. Deviation: an advantage that is mere rounding counts as 0.
    """
    lengths = np.diff(values.offsets)
    places = np.maximum(lengths, 1)  # an action without tokens stands as one, which is dropped in the end
    starts = np.concatenate(([0], np.cumsum(places)))
    real = np.repeat(lengths > 0, places)
    value_T = np.zeros(starts[-1])
    value_T[real] = values.values

    rows, ends = last_places(segments)
    final = np.zeros(len(lengths), dtype=bool)
    final[ends] = True
    after = np.zeros(len(lengths))
    after[ends] = bootstrap[rows]
    last = starts[1:] - 1
    entries = last if params.variant == "archer" else starts[:-1]
    _fill_empty(value_T, entries, lengths, rewards, done=done, final=final, after=after, gamma=params.gamma)

    nearest = value_T[entries]
    following = np.where(final, after, np.append(nearest[1:], 0.0)[: len(nearest)])
    inside = 1.0 if params.variant == "poad" else params.gamma
    ahead = inside * np.append(value_T[1:], 0.0)[: len(value_T)]
    ahead[last] = rewards + params.gamma * np.where(done, 0.0, following)
    decay = np.full(len(value_T), inside * params.gae_lambda)
    decay[last] = params.gamma * params.gae_lambda

    cuts = np.concatenate(([0], starts[1:][done | final]))
    advantage = drop_rounding(decayed_sums(ahead - value_T, decay, cuts))[real]
    return TokenAdvantages(advantage, advantage + values.values, normalise_tokens(advantage, params=params))


def normalise_tokens(advantage: np.ndarray, *, params: PoadParams = DEFAULTS) -> np.ndarray:
    """Less the mean and over the deviation of those tokens of a mini-batch whose advantage is not 0.

    Args:
        advantage: `[T]` float64; padding left out, NaN where unknown.
        params: epsilon and ddof.

    Returns:
        `[T]` float64; 0 where all are 0, NaN where unknown.
    """
    counted = advantage[(advantage != 0) & ~np.isnan(advantage)]
    if not len(counted):
        return np.where(np.isnan(advantage), np.nan, 0.0)
    of = moments(counted, np.zeros(len(counted), dtype=np.int64), count=1, ddof=params.norm_ddof)
    mean = counted[0] if of.alike[0] else of.mean[0]
    return drop_rounding(advantage - mean) / (np.nan_to_num(of.std[0]) + params.norm_eps)


def poad_credit(trees: Trees, params: PoadParams = DEFAULTS) -> CreditColumns:
    """Credit the tokens of trees, every path to a leaf being an episode that ends there, every step an action.

    Rewards are what the environment paid; verdicts are not looked at.

    Args:
        trees: `N` nodes, given `kind`, `origin`, `critic_values` and `step_reward`.
        params: see there.

    Returns:
        advantage: `[N]` float64, mean over the node's known tokens; 0 where the policy said nothing, NaN without such
            a token.
        token_advantages: `[T]` float64, mean over the paths through the token; 0 where the policy said nothing, NaN
            where a value it rests on is unknown. With the critic's value added it is what the critic is trained to,
            unless normalised.

    Source: as `poad`. Deviations: nothing is bootstrapped behind a leaf, since no critic saw what came after it; the
        paper samples episodes that share no step.
    """
    found = spoken(trees)
    paths, rows = found.paths, token_rows(trees, found)
    done = np.zeros(len(paths.nodes), dtype=bool)
    done[last_places(paths.offsets)[1]] = True
    tokens = poad(
        rows.by_step(trees.given["critic_values"]),
        trees.given["step_reward"][paths.nodes],
        done=done,
        segments=paths.offsets,
        bootstrap=np.zeros(len(paths.offsets) - 1),
        params=params,
    )
    return credit_of_tokens(trees, rows, tokens.normalised if params.normalise else tokens.advantage)


def _fill_empty(
    value: np.ndarray,
    entries: np.ndarray,
    lengths: np.ndarray,
    rewards: np.ndarray,
    *,
    done: np.ndarray,
    final: np.ndarray,
    after: np.ndarray,
    gamma: float,
) -> None:
    """Write the values of actions without tokens: their reward and the discounted value at the entry of what follows.
    The last of every run of them is known first."""
    unknown = lengths == 0
    while unknown.any():
        waits = np.append(unknown[1:], False) & ~final & ~done
        ready = np.flatnonzero(unknown & ~waits)
        following = np.append(value[entries[1:]], 0.0)[ready]
        following = np.where(final[ready], after[ready], following)
        value[entries[ready]] = rewards[ready] + gamma * np.where(done[ready], 0.0, following)
        unknown[ready] = False
