"""Estimates from counts and samples, with their intervals.

Knows no table: what was counted is the caller's to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

Z95 = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""

_ALIKE = 1e-9
"""Means of tasks no further apart count as equal."""


_RESAMPLES = 200


class MeanInterval(NamedTuple):
    """A figure, mostly a mean, and its 95 % interval. None: not defined on so few tasks."""

    mean: float | None
    low: float | None
    high: float | None


def wilson(successes: ArrayLike, count: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's 95 % interval of a proportion.

    Args:
        successes: `[N]`, of `count`; may be a sum of graded rewards.
        count: `[N]`, trials.

    Returns:
        Lower and upper ends, `[N]` float64 in [0, 1]; NaN where nothing was tried.

    Source: Wilson (1927), without continuity correction.
    """
    right, tried = np.broadcast_arrays(np.asarray(successes, np.float64), np.asarray(count, np.float64))
    some = tried > 0
    trials = np.where(some, tried, 1.0)
    low, high = _score_interval(right / trials, trials, Z95)
    return np.where(some, low, np.nan), np.where(some, high, np.nan)


def _score_interval(share: ArrayLike, trials: ArrayLike, quantile: float) -> tuple[np.ndarray, np.ndarray]:
    """The shares of which `share` of so many trials is no further off than `quantile` standard errors; in [0, 1]."""
    part = quantile**2 / np.asarray(trials, np.float64)
    middle = (share + part / 2) / (1 + part)
    half = np.sqrt(part * (share * (1 - share) + part / 4)) / (1 + part)
    low = np.where(share <= 0, 0.0, np.clip(middle - half, 0.0, 1.0))
    high = np.where(share >= 1, 1.0, np.clip(middle + half, 0.0, 1.0))
    return low, high


def auc(score: ArrayLike, positive: ArrayLike) -> float | None:
    """Chance that a positive scores above a negative, a tie counting half: the area under the ROC curve.

    Args:
        score: `[N]` float; those that are NaN are dropped.
        positive: `[N]` bool.

    Returns:
        In [0, 1]. None: there is no positive or no negative.
    """
    scores, positives = np.asarray(score, np.float64), np.asarray(positive, bool)
    scores, positives = scores[~np.isnan(scores)], positives[~np.isnan(scores)]
    yes = int(positives.sum())
    no = len(positives) - yes
    if yes == 0 or no == 0:
        return None
    return float((mean_ranks(scores)[positives].sum() - yes * (yes + 1) / 2) / (yes * no))


def auc_interval(score: ArrayLike, positive: ArrayLike, group: ArrayLike) -> MeanInterval:
    """`auc` and the 95 % interval of its bootstrap over groups: whole groups are drawn with replacement.

    Args:
        score, positive: as `auc` takes them.
        group: `[N]` int, such as the task of each.

    Returns:
        As `auc`; the interval is that of the draws in which there is a positive and a negative.
    """
    scores, positives = np.asarray(score, np.float64), np.asarray(positive, bool)
    known = ~np.isnan(scores)
    value = auc(scores, positives)
    if value is None:
        return MeanInterval(None, None, None)
    _, place = np.unique(scores[known], return_inverse=True)
    positives, codes = positives[known], np.unique(np.asarray(group)[known], return_inverse=True)[1]
    found = []
    for times in _drawn_groups(int(codes.max()) + 1):
        weight = times[codes].astype(np.float64)
        yes, no = np.bincount(place, weight * positives), np.bincount(place, weight * ~positives)
        pairs = yes.sum() * no.sum()
        if pairs:
            found.append(float(yes @ (np.cumsum(no) - no / 2)) / pairs)
    return MeanInterval(value, *_middle(found))


def pooled_share_interval(hits_per_group: ArrayLike, count_per_group: ArrayLike) -> MeanInterval:
    """Hits of all groups by their number, and the 95 % interval of its bootstrap over groups.

    Args:
        hits_per_group, count_per_group: `[G]`; a group without any counts for nothing.

    Returns:
        None where there is none at all.
    """
    hits, count = np.asarray(hits_per_group, np.float64), np.asarray(count_per_group, np.float64)
    hits, count = hits[count > 0], count[count > 0]
    if not len(count):
        return MeanInterval(None, None, None)
    found = [float((times @ hits) / (times @ count)) for times in _drawn_groups(len(count))]
    return MeanInterval(float(hits.sum() / count.sum()), *_middle(found))


def _drawn_groups(count: int) -> Iterator[np.ndarray]:
    """How often each of `count` groups is drawn, `[count]`, for each of the draws of a bootstrap; always the same."""
    draw = np.random.default_rng(0)
    for _ in range(_RESAMPLES):
        yield np.bincount(draw.integers(count, size=count), minlength=count)


def _middle(values: Sequence[float]) -> tuple[float, float]:
    """The middle 95 % of some values."""
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """`[N]` float64: the rank of each value from 1; equals share the mean of theirs. No NaN."""
    _, place, size = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(size) - (size - 1) / 2)[place]


def correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    """Pearson's, of two `[N]` without NaN, in [-1, 1]; of `mean_ranks` it is Spearman's. None: one is constant."""
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    a, b = one - one.mean(), other - other.mean()
    return float(np.clip((a @ b) / np.sqrt((a @ a) * (b @ b)), -1.0, 1.0))


def expected_calibration_error(value: ArrayLike, outcome: ArrayLike, *, bins: int = 10) -> float | None:
    """How far a stated chance is from what came of it: the mean over bins of |mean value - mean outcome|, by size.

    Bins are of about equal count; equal values share one, so there may be fewer. Chance alone makes it more than 0.

    Args:
        value: `[N]` float in [0, 1], what was said.
        outcome: `[N]` float in [0, 1], what came.

    Returns:
        In [0, 1]. None: there are none.

    Source: Naeini et al. (2015), with bins of equal count (Nguyen and O'Connor, 2015).
    """
    said, came = np.asarray(value, np.float64), np.asarray(outcome, np.float64)
    if not len(said):
        return None
    place = ((mean_ranks(said) - 0.5) * bins / len(said)).astype(np.int64)
    gaps = np.bincount(place, weights=said - came, minlength=bins)
    return float(np.abs(gaps).sum() / len(said))


def share_interval(values_per_task: Sequence[ArrayLike]) -> MeanInterval:
    """Mean over tasks of each task's mean, all in [0, 1], and its 95 % interval, which is in [0, 1] too.

    Samples of one task are alike, so the task is the unit. The variance of the mean over tasks says how many
    independent trials would err as much; the interval is Wilson's for that many, with Student's quantile for so many
    tasks. Where all tasks agree, each counts as one trial.

    Args:
        values_per_task: for each task one number or `[K]` of them; NaN are dropped, and so are tasks left empty.

    Returns:
        The mean is None without a task, the interval with fewer than two.

    Source: Wilson (1927) with the effective sample size of surveys (Kott and Carr, 1997; Franco et al., 2019).
    """
    means = _task_means(values_per_task)
    if len(means) < 2:
        return _alone(means)
    mean = float(means.mean())
    variance = float(means.var(ddof=1)) / len(means)
    trials = mean * (1 - mean) / variance if np.ptp(means) > _ALIKE else len(means)
    low, high = _score_interval(mean, trials, _student(len(means)))
    return MeanInterval(mean, float(low), float(high))


def difference_interval(values_per_task: Sequence[ArrayLike]) -> MeanInterval:
    """Mean over tasks of a difference of two shares, in [-1, 1], and Student's 95 % interval, cut to the same range.

    Args:
        values_per_task: as for `share_interval`; the differences are those within a task.

    Returns:
        As `share_interval`.
    """
    means = _task_means(values_per_task)
    if len(means) < 2:
        return _alone(means)
    mean = float(means.mean())
    half = _student(len(means)) * float(means.std(ddof=1)) / np.sqrt(len(means))
    return MeanInterval(mean, float(max(-1.0, mean - half)), float(min(1.0, mean + half)))


def _task_means(values_per_task: Sequence[ArrayLike]) -> np.ndarray:
    """The mean of every task that has a known value."""
    tasks = [np.atleast_1d(np.asarray(values, np.float64)) for values in values_per_task]
    return np.array([known.mean() for values in tasks if len(known := values[~np.isnan(values)])])


def _alone(means: np.ndarray) -> MeanInterval:
    """What is known of one task, or of none."""
    return MeanInterval(float(means[0]) if len(means) else None, None, None)


def _student(tasks: int) -> float:
    """Quantile of a two-sided 95 % interval from so many tasks."""
    return float(stdtrit(tasks - 1, 0.975))


def pass_at_k(n: ArrayLike, c: ArrayLike, k: int) -> np.ndarray:
    """Chance that at least one of `k` samples is right, from `n` samples of which `c` are.

    Args:
        n: `[N]` int, samples drawn.
        c: `[N]` int, right ones among them.
        k: 1 or more.

    Returns:
        `[N]` float64, `1 - C(n - c, k) / C(n, k)`, unbiased; NaN where fewer than `k` were drawn.

    Source: Chen et al. (2021), Evaluating Large Language Models Trained on Code.

    Raises:
        ValueError: `k` is less than 1.
    """
    if k < 1:
        raise ValueError(f"pass@{k} is not defined; k must be 1 or more")
    drawn, right = np.broadcast_arrays(np.asarray(n, np.int64), np.asarray(c, np.int64))
    enough = drawn >= k
    among = np.where(enough, drawn, k)
    none_right = np.ones(drawn.shape)
    for taken in range(k):
        none_right *= np.maximum(among - right - taken, 0) / (among - taken)
    return np.where(enough, 1.0 - none_right, np.nan)
