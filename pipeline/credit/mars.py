"""MARS: in self-play each seat's turn is credited with what that seat still earns, beside all turns of the seat.

Does not know the games: a pool of turns, such as those of one game and seat, comes as a code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.credit.columns import CreditColumns, Trees, drop_rounding
from pipeline.credit.normalise import normalise, whiten
from pipeline.credit.ragged import row_sums, rows_of, suffix_sums
from pipeline.credit.spoken import lay_steps, spoken
from pipeline.errors import check_words

FORMS = ("paper", "official")
"""Sum, then centre; the pipeline of the official code, which centres twice and whitens."""
SAME = 1e-6
"""Returns no further apart are one to the official pipeline, which takes a mean over distinct ones."""


@dataclass(frozen=True, slots=True)
class MarsParams:
    """Parameters of MARS.

    form: word of FORMS, what `mars_credit` gives.
    gamma: discount a turn, in the paper's form.
    whiten_rewards: the official pipeline whitens the rewards of tokens first.
    whiten_eps, ddof: of its variances.

    Raises:
        BadConfig: no such form.
    """

    form: str = "paper"
    gamma: float = 1.0
    whiten_rewards: bool = False
    whiten_eps: float = 1e-8
    ddof: int = 1

    def __post_init__(self) -> None:
        check_words(self, of="mars", form=FORMS)


DEFAULTS = MarsParams()


class PaperTurns(NamedTuple):
    """returns: `[P]`, what the seat earns from the turn on. advantage: `[P]`, that less its pool's mean. Both in
    reward units."""

    returns: np.ndarray
    advantage: np.ndarray


class OfficialTurns(NamedTuple):
    """What the official pipeline says of `P` turns; where rewards are whitened, the mean over the turn's tokens.

    normalised_reward: `[P]`, less the mean of its pool, reward units.
    before_whitening: `[P]`, what is still to come, less the mean over the seat's distinct ones.
    whitened: `[P]`, standard deviations over all tokens. 0 for a turn without tokens if rewards are whitened.
    """

    normalised_reward: np.ndarray
    before_whitening: np.ndarray
    whitened: np.ndarray


def mars(rewards: np.ndarray, offsets: np.ndarray, *, pools: np.ndarray, params: MarsParams = DEFAULTS) -> PaperTurns:
    """Credit the turns of `M` trajectories, one a seat of a game, in the paper's form.

    Args:
        rewards: `[P]` float64, what the seat receives from the turn until its next one, no NaN.
        offsets: `[M + 1]` int64, where each trajectory begins.
        pools: `[P]` int, code from 0 of the turn's game and seat, over all games of the batch.
        params: gamma.

    Returns:
        The advantage of the only turn of a pool is 0.

    Source: MARS (2025). Deviation: equal returns give exactly 0.
    """
    returns = suffix_sums(rewards, offsets, discount=params.gamma)
    count = int(pools.max()) + 1 if len(pools) else 0
    advantage = normalise(returns, pools, count=count, form="mean_norm", keep_lone=False)
    return PaperTurns(returns, advantage)


def mars_official(
    rewards: np.ndarray,
    offsets: np.ndarray,
    *,
    pools: np.ndarray,
    seats: np.ndarray,
    token_counts: np.ndarray,
    params: MarsParams = DEFAULTS,
) -> OfficialTurns:
    """Credit the turns of `M` trajectories, one a seat of a game, as the official code does.

    A reward less its pool's mean sits on the turn's last token and is summed from the end of the trajectory. Of every
    sum the mean over the distinct ones of the seat is taken off, 0 (that of padding) among them. The result is whitened
    over all tokens.

    Args:
        rewards, offsets, pools: as in `mars`.
        seats: `[P]` int, code of the turn's seat, whatever the game.
        token_counts: `[P]` int, tokens of the turn's response.
        params: see there.

    Source: the code of MARS (2025). Deviations: a pool of one turn has reward 0, where it fails; sums within `SAME`
        count as one, where it compares bit by bit; means are not divided by a count that has 1e-8 added.
    """
    count = int(pools.max()) + 1 if len(pools) else 0
    normalised = normalise(rewards, pools, count=count, form="mean_norm", keep_lone=False)
    spread = {"eps": params.whiten_eps, "ddof": params.ddof}
    if not params.whiten_rewards:
        before = _less_distinct_mean(suffix_sums(normalised, offsets), seats)
        return OfficialTurns(normalised, before, whiten(before, token_counts, **spread))
    starts = np.concatenate(([0], np.cumsum(token_counts)))
    paid = np.zeros(starts[-1])
    paid[starts[1:][token_counts > 0] - 1] = normalised[token_counts > 0]
    each = np.ones(len(paid), dtype=np.int64)
    turns_T = rows_of(starts)
    before_T = _less_distinct_mean(suffix_sums(whiten(paid, each, **spread), starts[offsets]), seats[turns_T])
    whitened_T = whiten(before_T, each, **spread)
    size = np.maximum(token_counts, 1)
    return OfficialTurns(normalised, row_sums(before_T, starts) / size, row_sums(whitened_T, starts) / size)


def mars_credit(trees: Trees, params: MarsParams = DEFAULTS) -> CreditColumns:
    """Credit the steps of trees, the steps of one agent along a path to a leaf being a trajectory of its seat.

    Needs `agent`, `kind`, `sampled` and `step_reward`. What the environment showed is no turn. All trees are taken for
    one game; verdicts are not looked at. Turns of a player that is no policy are a pool of their own.

    Args:
        trees: `N` nodes.
        params: see there.

    Returns:
        advantage: `[N]` float64, mean over the paths through the node; 0 at roots.

    Source: as `mars` and `mars_official`. Deviation: the paper plays games that share no turn.
    """
    paths = spoken(trees).paths
    agents, rewards = trees.given["agent"][paths.nodes], trees.given["step_reward"][paths.nodes]
    path = paths.members()
    order = np.lexsort((agents, path))  # stable: the turns of a seat keep their order
    opens = np.ones(len(order), dtype=bool)
    opens[1:] = (np.diff(path[order]) != 0) | (np.diff(agents[order]) != 0)
    offsets = np.append(np.flatnonzero(opens), len(order))
    sampled = trees.given["sampled"][paths.nodes[order]]
    seats = np.unique(2 * agents[order] + sampled, return_inverse=True)[1]
    if params.form == "paper":
        advantage = mars(rewards[order], offsets, pools=seats, params=params).advantage
    else:
        tokens = trees.token_counts()[paths.nodes[order]]
        advantage = mars_official(
            rewards[order], offsets, pools=seats, seats=seats, token_counts=tokens, params=params
        ).whitened
    advantage_P = np.empty(len(order))
    advantage_P[order] = advantage
    return CreditColumns(advantage=lay_steps(trees, paths.nodes, advantage_P))


def _less_distinct_mean(values: np.ndarray, seats: np.ndarray) -> np.ndarray:
    """Each value less the mean of its seat's distinct ones and 0."""
    count = int(seats.max()) + 1 if len(seats) else 0
    seat, value = np.append(seats, np.arange(count)), np.append(values, np.zeros(count))
    order = np.lexsort((value, seat))
    seat, value = seat[order], value[order]
    distinct = np.ones(len(order), dtype=bool)
    distinct[1:] = (np.diff(seat) != 0) | (np.diff(value) > SAME)
    total = np.bincount(seat[distinct], weights=value[distinct], minlength=count)
    mean = total / np.maximum(np.bincount(seat[distinct], minlength=count), 1)
    return drop_rounding(values - mean[seats])
