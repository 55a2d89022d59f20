"""From figures of some tasks to those of a whole suite, with intervals. Knows arrays only.

Where every band has a task in the pilot, each band is counted up by itself. The spread is that within bands where each
has two or is in the pilot whole; else it is that over all tasks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from pipeline.statistics import MeanInterval, wilson


class Drawn(NamedTuple):
    """Which tasks a pilot took.

    band:  `[n]` int, the band of each.
    sizes: `[B]` int, tasks of the suite by band, n at most in all.
    """

    band: np.ndarray
    sizes: np.ndarray


class _Total(NamedTuple):
    mean: float
    variance: float
    degrees: int


def pick(sizes: np.ndarray, most: int) -> list[np.ndarray]:
    """Tasks for a pilot: bands in turn, evenly over each; with fewer tasks than bands, evenly over the bands.

    Args:
        sizes: `[B]` int, tasks of each band.
        most:  tasks to pick; all, where there are fewer.

    Returns:
        For each band the places of its picked tasks, the first among them.
    """
    counts, left = np.zeros(len(sizes), int), min(most, int(sizes.sum()))
    while left:
        open_bands = np.flatnonzero(counts < sizes)
        if len(open_bands) > left:
            open_bands = open_bands[np.arange(left) * len(open_bands) // left]
        counts[open_bands] += 1
        left -= len(open_bands)
    return [np.arange(count) * size // max(count, 1) for count, size in zip(counts, sizes, strict=True)]


def expected_total(value: np.ndarray, drawn: Drawn) -> MeanInterval:
    """The sum of a figure over the suite, and Student's 95 % interval, which is not below what was seen.

    Args:
        value: `[n]` float, the figure of each task; NaN: not known.

    Returns:
        No number where a task's is not known; no interval from one task, unless it is all there is.
    """
    total = _total(value, drawn)
    if total is None:
        return MeanInterval(None, None, None)
    if not total.degrees:
        return _alone(total)
    half = float(stdtrit(total.degrees, 0.975)) * total.variance**0.5
    return MeanInterval(total.mean, max(float(value.sum()), total.mean - half), total.mean + half)


def expected_tasks(holds: np.ndarray, drawn: Drawn) -> MeanInterval:
    """Tasks of the suite of which something holds, and Wilson's 95 % interval for as many trials as would err as much.

    Args:
        holds: `[n]` bool.
    """
    value, tasks = np.asarray(holds, np.float64), int(drawn.sizes.sum())
    total = _total(value, drawn)
    if not total.degrees:
        return _alone(total)
    share = min(1.0, total.mean / tasks)
    alike = total.variance <= 0 or not 0 < share < 1
    trials = len(value) if alike else share * (1 - share) / (total.variance / tasks**2)
    low, high = (float(end) * tasks for end in wilson(share * trials, trials))
    seen = float(value.sum())
    return MeanInterval(total.mean, max(seen, low), min(tasks - (len(value) - seen), high))


def expected_prefill(alone: np.ndarray, together: float, drawn: Drawn) -> MeanInterval:
    """Prompt tokens to be computed over the suite, the beginning that all tasks share being computed once.

    Args:
        alone:    `[n]` float, of each task with a cache of its own.
        together: of all of them with one cache.
    """
    shared = (float(alone.sum()) - together) / (len(alone) - 1) if len(alone) > 1 else 0.0
    found, spared = expected_total(alone, drawn), (int(drawn.sizes.sum()) - 1) * shared
    if found.mean is None:
        return found
    low, high = (None if end is None else max(together, end - spared) for end in (found.low, found.high))
    return MeanInterval(found.mean - spared, low, high)


def _alone(total: _Total) -> MeanInterval:
    """Without degrees of freedom: exact, or one task of several."""
    exact = total.variance == 0
    return MeanInterval(total.mean, total.mean if exact else None, total.mean if exact else None)


def _total(value: np.ndarray, drawn: Drawn) -> _Total | None:
    """The sum over the suite and its variance. Degrees 0: exact where the variance is 0, else it is not known."""
    band, sizes = drawn
    if np.isnan(value).any():
        return None
    tasks, count = int(sizes.sum()), np.bincount(band, minlength=len(sizes))
    there = sizes > 0
    each = (count > 0)[there].all()
    sums = np.bincount(band, weights=value, minlength=len(sizes))
    means = np.divide(sums, count, out=np.zeros(len(sizes)), where=count > 0)
    mean = float((sizes * means).sum()) if each else tasks * float(value.mean())
    if len(value) == tasks:
        return _Total(mean, 0.0, 0)
    if len(value) < 2:
        return _Total(mean, np.inf, 0)
    if each and ((count > 1) | (count == sizes))[there].all():
        open_bands = np.flatnonzero(count < sizes)
        variance = sum(
            sizes[one] ** 2 * (1 - count[one] / sizes[one]) * value[band == one].var(ddof=1) / count[one]
            for one in open_bands
        )
        return _Total(mean, float(variance), int((count[open_bands] - 1).sum()))
    weight = sizes[band] / count[band] if each else np.full(len(value), tasks / len(value))
    variance = float(value.var(ddof=1)) * (1 - len(value) / tasks) * float((weight**2).sum())
    return _Total(mean, variance, len(value) - 1)
