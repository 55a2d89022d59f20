"""Attention rhythm: tokens before which local heads look back, and tokens that later text keeps looking at, earn more.

Does not run a model: it takes the attention of one response as matrices, which need not be kept afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.errors import BadConfig

STRATEGIES = ("local", "global", "coupled")
"""More for preplan tokens; for anchors; for anchors, part of which goes to the token that introduced them."""
_NOISE = 1e-9


@dataclass(frozen=True, slots=True)
class RhythmParams:
    """Parameters of attention rhythm. alpha and the taus are not published: these are conventions.

    strategy: word of STRATEGIES.
    window: a look back further than so many tokens counts as one of so many.
    nearest, farthest: tokens between an anchor and the text that looks at it.
    top: share of a response's tokens that are preplan tokens, and that are anchors.
    amplification: what their advantage is multiplied by.
    alpha: share of a dominated anchor's bonus that goes to its introduction.
    reach: tokens before an anchor in which its introduction is looked for; 1 to 3 in the paper.
    tau_waad: look-back up to which an anchor may be dominated. None: the median of the response.
    tau_delta: change of look-back from which a token may introduce one. None: the least of a preplan token.

    Raises:
        BadConfig: no such strategy, or a number out of range.
    """

    strategy: str = "coupled"
    window: int = 10
    nearest: int = 10
    farthest: int = 50
    top: float = 0.4
    amplification: float = 1.5
    alpha: float = 0.5
    reach: int = 3
    tau_waad: float | None = None
    tau_delta: float | None = None

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise BadConfig(
                f"attention_rhythm strategy {self.strategy!r} is not known", remedy=f"use one of {STRATEGIES}"
            )
        if self.reach < 1 or self.nearest < 0 or not 0 <= self.top <= 1:
            culprit = f"attention_rhythm reach {self.reach}, nearest {self.nearest} or top {self.top} is out of range"
            raise BadConfig(culprit, remedy="reach is 1 to 3, nearest not negative, top a share")


DEFAULTS = RhythmParams()


class Rhythm(NamedTuple):
    """What attention says of the `n` tokens of a response. Places count from its first token and ascend.

    waad: `[n]`, tokens that local heads look back on average, cut at the window.
    fai: `[n]`, attention of later text; 0 where none is far enough away.
    delta: `[n]`, change of `waad` to the next token; 0 at the last.
    preplan, anchors: `[P]`, `[A]` int64, the places with most `delta`, most `fai`.
    dominated: `[D]` int64, anchors whose bonus is shared; introductions: `[D]` int64, the place it is shared with.
    tau_waad, tau_delta: thresholds used; NaN where a response has nothing to take them from.
    gamma: `[n]`, what an advantage is multiplied by.
    """

    waad: np.ndarray
    fai: np.ndarray
    delta: np.ndarray
    preplan: np.ndarray
    anchors: np.ndarray
    dominated: np.ndarray
    introductions: np.ndarray
    tau_waad: float
    tau_delta: float
    gamma: np.ndarray


class HeadGroups(NamedTuple):
    """distances: `[H]`, tokens each head looks back on average. near, far: rows of the heads that look back least and
    most, ascending."""

    distances: np.ndarray
    near: np.ndarray
    far: np.ndarray


def rhythm_layers(layers: int) -> list[int]:
    """Five layers evenly spaced over the middle third of a model, fewer where it has not as many."""
    first, last = layers // 3, 2 * layers // 3
    return sorted({first + (last - first) * place // 4 for place in range(5)})


def group_heads(maps: np.ndarray, response_start: int, *, quantile: float = 0.3) -> HeadGroups:
    """Tell heads that look nearby from heads that look far.

    Args:
        maps: `[H, N, N]` float, attention of each head, rows the tokens that look; heads in the order of their ids.
        response_start: place of the first token of the response.
        quantile: share of the heads in each group, rounded down, at least one. Ties go to the smaller id.

    Raises:
        ValueError: the response is empty.
    """
    rows = maps[:, response_start:].astype(np.float64)
    if not rows.shape[1]:
        raise ValueError(f"the response is empty: {maps.shape[1]} tokens, the response begins at {response_start}")
    distances = np.einsum("hts,ts->h", rows, _look_back(maps.shape[1], response_start)) / rows.shape[1]
    size = max(1, int(np.floor(quantile * len(maps) + _NOISE)))
    settled = np.round(distances, 12)
    near = np.argsort(settled, kind="stable")[:size]
    far = np.argsort(-settled, kind="stable")[:size]
    return HeadGroups(distances, np.sort(near), np.sort(far))


def mean_map(maps: np.ndarray, heads: Sequence[int] | np.ndarray) -> np.ndarray:
    """`[N, N]` float64: mean attention of some heads."""
    return maps[np.asarray(heads)].mean(axis=0, dtype=np.float64)


def attention_rhythm(
    local: np.ndarray, far: np.ndarray, response_start: int, params: RhythmParams = DEFAULTS
) -> Rhythm:
    """Find the preplan tokens and the anchors of one response, and what their advantages are multiplied by.

    Args:
        local: `[N, N]` float, mean attention of heads that look nearby, rows the tokens that look.
        far: `[N, N]` float, of heads that look far.
        response_start: place of the first token of the response; what stands before is the prompt.
        params: strategy, horizons, shares.

    Source: Attention Illuminates LLM Reasoning (Li et al., 2025) by its definitions; there is no code. Ties and the
        thresholds that it leaves open are conventions.
    """
    count = len(local) - response_start
    look_back = np.minimum(_look_back(len(local), response_start), params.window)
    waad = np.einsum("ts,ts->t", local[response_start:].astype(np.float64), look_back)
    fai, seen = _later_attention(far[response_start:, response_start:], params.nearest, params.farthest)
    delta = np.zeros(count)
    delta[:-1] = np.abs(np.diff(waad))
    kept = int(np.ceil(round(params.top * count, 9)))
    preplan = _top(delta, np.arange(count) < count - 1, kept)
    anchors = _top(fai, seen, kept)
    tau_waad, tau_delta = params.tau_waad, params.tau_delta
    if tau_waad is None:
        tau_waad = float(np.median(waad)) if count else np.nan
    if tau_delta is None:
        tau_delta = float(delta[preplan].min()) if len(preplan) else np.nan

    strongest, introduction = _before(delta, params.reach)
    shared = (waad[anchors] <= tau_waad) & (strongest[anchors] >= max(tau_delta, _NOISE))
    dominated = anchors[shared]
    bonus = np.zeros(count)
    match params.strategy:
        case "local":
            bonus[preplan] = 1.0
        case "global":
            bonus[anchors] = 1.0
        case "coupled":
            bonus[anchors] = 1.0
            bonus[dominated] = 1.0 - params.alpha
            bonus[np.unique(introduction[dominated])] += params.alpha
    return Rhythm(
        waad=waad,
        fai=fai,
        delta=delta,
        preplan=preplan,
        anchors=anchors,
        dominated=dominated,
        introductions=introduction[dominated],
        tau_waad=tau_waad,
        tau_delta=tau_delta,
        gamma=1.0 + (params.amplification - 1.0) * bonus,
    )


def amplify(advantages: np.ndarray | float, gamma: np.ndarray) -> np.ndarray:
    """`[n]` float64: advantages times gamma where they are not negative, as they are elsewhere."""
    return np.where(np.asarray(advantages) >= 0, gamma * advantages, advantages)


def _look_back(count: int, start: int) -> np.ndarray:
    """`[count - start, count]` int64: tokens from each column to each row from `start` on; 0 for what comes later."""
    return np.maximum(np.arange(start, count)[:, None] - np.arange(count), 0)


def _later_attention(attention: np.ndarray, nearest: int, farthest: int) -> tuple[np.ndarray, np.ndarray]:
    """`[n]` mean attention that each column has from rows so many tokens later, and whether there is such a row."""
    count = len(attention)
    total, seen = np.zeros(count), np.zeros(count)
    for distance in range(nearest, min(farthest, count - 1) + 1):
        total[: count - distance] += np.diagonal(attention, -distance)
        seen[: count - distance] += 1
    return total / np.maximum(seen, 1), seen > 0


def _top(values: np.ndarray, eligible: np.ndarray, count: int) -> np.ndarray:
    """Places of the largest eligible values, ascending; ties, up to rounding, go to the earlier."""
    places = np.flatnonzero(eligible)
    return np.sort(places[np.argsort(-np.round(values[places], 12), kind="stable")[:count]])


def _before(values: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest of the values up to `reach` places before each, -inf where there is none, and its place; of those
    equal up to rounding the later."""
    settled, best = np.round(values, 12), np.full(len(values), -np.inf)
    where = np.zeros(len(values), np.int64)
    for back in range(1, min(reach, len(values) - 1) + 1):
        better = settled[:-back] > best[back:]
        best[back:][better] = settled[:-back][better]
        where[back:][better] = np.flatnonzero(better)
    return np.where(np.isfinite(best), values[where] if len(values) else best, -np.inf), where
