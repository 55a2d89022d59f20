"""Attention rhythm: tokens before which local heads look back, and tokens that later text keeps looking at, earn more.

Does not run a model: it takes the attention of one response as matrices, which need not be kept afterwards, or the
summaries that were made of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.credit.columns import CreditColumns, Trees
from pipeline.credit.group import group_advantages
from pipeline.credit.ragged import row_sums, rows_of
from pipeline.credit.spoken import spoken
from pipeline.credit.token_rows import credit_of_tokens, token_rows
from pipeline.errors import BadConfig, check_words

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
        check_words(self, of="attention_rhythm", strategy=STRATEGIES)
        if self.reach < 1 or self.nearest < 0 or not 0 <= self.top <= 1:
            culprit = f"attention_rhythm reach {self.reach}, nearest {self.nearest} or top {self.top} is out of range"
            raise BadConfig(culprit, remedy="reach is 1 to 3, nearest not negative, top a share")


DEFAULTS = RhythmParams()


class Rhythm(NamedTuple):
    """What attention says of the `n` tokens of `M` responses. Places count from the first of all and ascend.

    waad: `[n]`, tokens that local heads look back on average, cut at the window.
    fai: `[n]`, attention of later text; 0 where none is far enough away.
    delta: `[n]`, change of `waad` to the next token; 0 at the last of a response.
    preplan, anchors: `[P]`, `[A]` int64, the places with most `delta`, most `fai` of their response.
    dominated: `[D]` int64, anchors whose bonus is shared; introductions: `[D]` int64, the place it is shared with.
    tau_waad, tau_delta: `[M]`, thresholds used; NaN where a response has nothing to take them from.
    gamma: `[n]`, what an advantage is multiplied by.
    """

    waad: np.ndarray
    fai: np.ndarray
    delta: np.ndarray
    preplan: np.ndarray
    anchors: np.ndarray
    dominated: np.ndarray
    introductions: np.ndarray
    tau_waad: np.ndarray
    tau_delta: np.ndarray
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

    Returns:
        Of the one response; its thresholds are numbers.

    Source: Attention Illuminates LLM Reasoning (Li et al., 2025) by its definitions; there is no code. Ties and the
        thresholds that it leaves open are conventions.
    """
    count = len(local) - response_start
    look_back = np.minimum(_look_back(len(local), response_start), params.window)
    waad = np.einsum("ts,ts->t", local[response_start:].astype(np.float64), look_back)
    fai = _later_attention(far[response_start:, response_start:], params.nearest, params.farthest)
    found = rhythm(waad, fai, np.array([0, count]), params)
    return found._replace(tau_waad=float(found.tau_waad[0]), tau_delta=float(found.tau_delta[0]))


def rhythm(waad: np.ndarray, fai: np.ndarray, offsets: np.ndarray, params: RhythmParams = DEFAULTS) -> Rhythm:
    """Find the preplan tokens and the anchors of responses by the summaries of their attention.

    Args:
        waad, fai: `[n]` float64, as in `Rhythm`. A NaN spoils what is said of its response, not of others.
        offsets: `[M + 1]` int64, where the tokens of each response begin.
        params: strategy, shares; of the horizons the nearest.

    Source: as `attention_rhythm`.
    """
    count, row = len(waad), rows_of(offsets)
    kept = np.ceil(np.round(params.top * np.diff(offsets), 9)).astype(np.int64)
    inner = _followers(offsets) > 0
    delta = np.zeros(count)
    delta[:-1] = np.abs(np.diff(waad))
    delta[~inner] = 0.0
    preplan = _top(delta, inner, kept, row)
    anchors = _top(fai, _seen(offsets, params), kept, row)
    tau_waad, tau_delta = np.full((2, len(kept)), np.nan)
    tau_waad[:] = _medians(waad, offsets) if params.tau_waad is None else params.tau_waad
    np.fmin.at(tau_delta, row[preplan], delta[preplan])
    if params.tau_delta is not None:
        tau_delta[:] = params.tau_delta

    strongest, introduction = _before(delta, row, params.reach)
    shared = waad[anchors] <= tau_waad[row[anchors]]
    shared &= strongest[anchors] >= np.maximum(tau_delta, _NOISE)[row[anchors]]
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


def attention_rhythm_credit(trees: Trees, params: RhythmParams = DEFAULTS) -> CreditColumns:
    """Credit the tokens of the judged trajectories of trees: the group advantage, amplified.

    A response is what the policy said along the path. One of which something is unknown has its advantage where that
    is negative, and so not amplified.

    Args:
        trees: `N` nodes, given `kind`, `origin`, `waad` and `fai`; the latter is not looked at where no later token is
            far enough away.
        params: strategy, shares; of the horizons the nearest.

    Returns:
        advantage: `[N]` float64, mean over the node's known tokens; 0 where the policy said nothing, NaN without such
            a token.
        token_advantages: `[T]` float64, mean over the judged trajectories through the token on which it is known; 0
            where the policy said nothing, NaN where it is on none.

    Source: as `attention_rhythm`; the advantage is GRPO's as verl computes it. A token that several trajectories share
        has one summary, whatever came after it.
    """
    found = spoken(trees, judged=True)
    rows = token_rows(trees, found)
    base = group_advantages(trees.reward[found.ends], found.tasks, lengths=np.diff(rows.offsets))
    waad, fai = rows.of(trees.given["waad"]).values, rows.of(trees.given["fai"]).values
    unknown = np.isnan(waad) | (np.isnan(fai) & _seen(rows.offsets, params))
    row = rows_of(rows.offsets)
    gamma = rhythm(waad, fai, rows.offsets, params).gamma
    gamma[row_sums(unknown, rows.offsets)[row] > 0] = np.nan
    return credit_of_tokens(trees, rows, amplify(base[row], gamma))


def _look_back(count: int, start: int) -> np.ndarray:
    """`[count - start, count]` int64: tokens from each column to each row from `start` on; 0 for what comes later."""
    return np.maximum(np.arange(start, count)[:, None] - np.arange(count), 0)


def _later_attention(attention: np.ndarray, nearest: int, farthest: int) -> np.ndarray:
    """`[n]` mean attention that each column has from rows so many tokens later; 0 where there is no such row."""
    count = len(attention)
    total, seen = np.zeros(count), np.zeros(count)
    for distance in range(nearest, min(farthest, count - 1) + 1):
        total[: count - distance] += np.diagonal(attention, -distance)
        seen[: count - distance] += 1
    return total / np.maximum(seen, 1)


def _followers(offsets: np.ndarray) -> np.ndarray:
    """`[n]` int64: tokens of its response that come after each."""
    return np.repeat(offsets[1:], np.diff(offsets)) - 1 - np.arange(offsets[-1])


def _seen(offsets: np.ndarray, params: RhythmParams) -> np.ndarray:
    """`[n]` bool: whether some later token of its response is far enough away, so that it may be an anchor."""
    return (_followers(offsets) >= params.nearest) & (params.farthest >= params.nearest)


def _top(values: np.ndarray, eligible: np.ndarray, kept: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Places of the largest eligible values of each row, as many as are `kept`, ascending; ties, up to rounding, go to
    the earlier."""
    places = np.flatnonzero(eligible)
    order = places[np.lexsort((-np.round(values[places], 12), row[places]))]
    size = np.bincount(row[places], minlength=len(kept))
    rank = np.arange(len(order)) - (np.cumsum(size) - size)[row[order]]
    return np.sort(order[rank < kept[row[order]]])


def _medians(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """`[M]`: median of each row; NaN for an empty one."""
    ordered, sizes = values[np.lexsort((values, rows_of(offsets)))], np.diff(offsets)
    found, filled = np.full(len(sizes), np.nan), sizes > 0
    low, high = ((offsets[:-1] + (sizes - up) // 2)[filled] for up in (1, 0))
    found[filled] = (ordered[low] + ordered[high]) / 2.0
    return found


def _before(values: np.ndarray, row: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest of the values up to `reach` places before each in its row, -inf where there is none, and its place;
    of those equal up to rounding the later."""
    settled, best = np.round(values, 12), np.full(len(values), -np.inf)
    where = np.zeros(len(values), np.int64)
    for back in range(1, min(reach, len(values) - 1) + 1):
        better = (settled[:-back] > best[back:]) & (row[:-back] == row[back:])
        best[back:][better] = settled[:-back][better]
        where[back:][better] = np.flatnonzero(better)
    return np.where(np.isfinite(best), values[where] if len(values) else best, -np.inf), where
