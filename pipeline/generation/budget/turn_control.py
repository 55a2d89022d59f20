"""Turn control: a run may take as many turns as most runs needed, is told how many are left, and may ask for more once.

Does not know the agent nor its tools: whether a run has finished is told to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.credit.ragged import row_sums
from pipeline.errors import BadConfig, check_words

MODES = ("none", "fixed", "dynamic")
"""Until it finishes; up to a limit; up to a limit that is raised once on demand."""


@dataclass(frozen=True, slots=True)
class TurnParams:
    """Parameters of turn control.

    mode: word of MODES.
    percentile: of the turns that unrestricted runs took, the limit.
    extended_percentile: the higher limit of `dynamic`. None: there is none, and nothing to ask for.
    unrestricted_cap: turns at which a run stops under `none`.

    Raises:
        BadConfig: no such mode, no such percentile, or the higher limit is not higher.
    """

    mode: str = "fixed"
    percentile: float = 75.0
    extended_percentile: float | None = None
    unrestricted_cap: int = 200

    def __post_init__(self) -> None:
        check_words(self, of="turn", mode=MODES)
        if self.mode == "none":
            return
        extended = self.percentile if self.extended_percentile is None else self.extended_percentile
        for percentile in (self.percentile, extended):
            if not 0 <= percentile <= 100:
                raise BadConfig(f"turn percentile {percentile} is none", remedy="give one from 0 to 100")
        if self.mode == "dynamic" and extended < self.percentile:
            raise BadConfig(
                f"extended percentile {self.extended_percentile} is below percentile {self.percentile}",
                remedy="give the higher limit the higher percentile",
            )


DEFAULTS = TurnParams()


class Limits(NamedTuple):
    """first: turns before a run is stopped, or asks. last: turns it has once granted more. None: unrestricted."""

    first: int | None
    last: int | None


class Replay(NamedTuple):
    """What `R` recorded runs would have come to.

    used: `[R]` int64, turns. finished, extended: `[R]` bool. left: `[R]` float64, turns the cap in force leaves; NaN
    where unrestricted.
    """

    used: np.ndarray
    finished: np.ndarray
    extended: np.ndarray
    left: np.ndarray


def turn_limits(baseline: np.ndarray, params: TurnParams = DEFAULTS) -> Limits:
    """Limits from the turns of unrestricted runs.

    Args:
        baseline: `[B]` int, turns that each took, in any order.
        params: mode and percentiles.

    Raises:
        BadConfig: there are no such runs and a limit is wanted.

    Source: More with Less (2025). Deviation: the paper does not say how a percentile is read; here it is linear
        between sorted turns and rounded up, an excess below 1e-9 being none.
    """
    if params.mode == "none":
        return Limits(None, None)
    if not len(baseline):
        raise BadConfig("no run tells how many turns are needed", remedy="record some runs under mode 'none' first")
    first = _percentile(baseline, params.percentile)
    if params.mode == "fixed" or params.extended_percentile is None:
        return Limits(first, first)
    return Limits(first, _percentile(baseline, params.extended_percentile))


def replay(needed: np.ndarray, granted: np.ndarray, limits: Limits, params: TurnParams = DEFAULTS) -> Replay:
    """What recorded unrestricted runs would have come to under limits.

    Args:
        needed: `[R]` float64, turn at which each finished; NaN: never.
        granted: `[R]` bool, the run would be granted more turns if it asked.
        limits: of `turn_limits`; with a last limit that is no higher, no run asks.
        params: the safety cap.
    """
    turns = np.where(np.isnan(needed), np.inf, needed)
    if limits.first is None:
        cap, extended = np.full(len(turns), params.unrestricted_cap), np.zeros(len(turns), dtype=bool)
    else:
        extended = (turns > limits.first) & granted & (limits.last > limits.first)
        cap = np.where(extended, limits.last, limits.first)
    used = np.minimum(turns, cap).astype(np.int64)
    left = np.full(len(turns), np.nan) if limits.first is None else (cap - used).astype(np.float64)
    return Replay(used=used, finished=turns <= cap, extended=extended, left=left)


def reminder(left: int) -> str:
    """The line after an observation."""
    return f"ENVIRONMENT REMINDER: You have {left} turns left to complete the task."


def run_costs(
    prefix_tokens: np.ndarray,
    written_tokens: np.ndarray,
    *,
    offsets: np.ndarray,
    price_read: float,
    price_written: float,
) -> np.ndarray:
    """`[R]` float64: price of each run; every turn reads again what came before it, so it grows with their square.

    Args:
        prefix_tokens: `[P]` int, read at each turn.
        written_tokens: `[P]` int, written at each turn.
        offsets: `[R + 1]` int64, where the turns of each run begin.
        price_read, price_written: of a token.
    """
    return row_sums(price_read * prefix_tokens + price_written * written_tokens, offsets)


def _percentile(turns: np.ndarray, percentile: float) -> int:
    sorted_turns = np.sort(turns).astype(np.float64)
    place = percentile / 100.0 * (len(turns) - 1)
    return math.ceil(float(np.interp(place, np.arange(len(turns)), sorted_turns)) - 1e-9)
