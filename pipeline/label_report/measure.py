"""How labels of the same steps agree, with each other and with an oracle. Knows no table and no labeller.

Intervals are of a bootstrap over tasks: the steps of a task are alike.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.comparison.lines import Figure
from pipeline.credit.columns import ranges
from pipeline.credit.ragged import row_sums
from pipeline.metrics.processbench import RIGHT, first_below, processbench
from pipeline.statistics import auc_interval

DRAWS = 200


def cohen_kappa(one: np.ndarray, other: np.ndarray) -> float | None:
    """Agreement of two raters beyond chance, over what both told.

    Args:
        one, other: `[N]` float64, 1, 0, or NaN: not told.

    Returns:
        `(p - e) / (1 - e)`, p the share of equal answers, e the share that chance would give by each one's own shares;
        in [-1, 1]. None: nothing was told by both, or both always say the same.

    Source: Cohen (1960).
    """
    both = ~np.isnan(one) & ~np.isnan(other)
    if not both.any():
        return None
    a, b = one[both], other[both]
    by_chance = a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean())
    if by_chance >= 1:
        return None
    return float(((a == b).mean() - by_chance) / (1 - by_chance))


def kappa_figure(one: np.ndarray, other: np.ndarray, task: np.ndarray) -> Figure:
    """`cohen_kappa` with its interval; task: `[N]` int, of each step."""
    both = np.flatnonzero(~np.isnan(one) & ~np.isnan(other))
    value = cohen_kappa(one, other)
    ends = _interval(lambda rows: cohen_kappa(one[both][rows], other[both][rows]), task[both])
    return Figure(value, len(both), *(ends if value is not None else ()))


def auc_figure(soft: np.ndarray, right: np.ndarray, task: np.ndarray) -> Figure:
    """Area under the ROC curve of right steps against wrong ones, all `[N]`; NaN: not known."""
    seen = ~np.isnan(soft) & ~np.isnan(right)
    found = auc_interval(soft[seen], right[seen] == 1, task[seen])
    return Figure(found.mean, int(seen.sum()), found.low, found.high)


def first_error_figure(hard: np.ndarray, right: np.ndarray, offsets: np.ndarray, task: np.ndarray) -> Figure:
    """F1 of the first step labelled wrong, over attempts of which more than half of the steps have a hard label.

    Args:
        hard: `[P]` float64, 1, 0 or NaN, attempt after attempt.
        right: `[P]` float64, of the oracle; NaN after the first wrong step.
        offsets: `[M + 1]` int64, where each attempt begins.
        task: `[M]` int, of each attempt. One that the oracle says nothing of is left out.

    Returns:
        In [0, 1], not percent.
    """
    true, told = (first_below(values, offsets, 0.5) for values in (right, hard))
    told_steps, known_steps = (row_sums((~np.isnan(values)).astype(np.float64), offsets) for values in (hard, right))
    rows = np.flatnonzero((2 * told_steps > np.diff(offsets)) & (known_steps > 0))

    def f1(chosen: np.ndarray) -> float | None:
        found = processbench(true[rows][chosen], told[rows][chosen].astype(np.float64)).f1
        return None if np.isnan(found) else found / 100.0

    value = f1(np.arange(len(rows))) if len(rows) and (true[rows] != RIGHT).any() else None
    return Figure(value, len(rows), *(_interval(f1, task[rows]) if value is not None else ()))


def _interval(measure: Callable[[np.ndarray], float | None], task: np.ndarray) -> tuple[float | None, float | None]:
    """The middle 95 % of a figure over draws of tasks with replacement; always the same draws."""
    codes, order = np.unique(task, return_inverse=True)[1], np.argsort(task, kind="stable")
    if not len(task):
        return None, None
    starts = np.concatenate(([0], np.cumsum(np.bincount(codes))))
    draw, found = np.random.default_rng(0), []
    for _ in range(DRAWS):
        tasks = draw.integers(len(starts) - 1, size=len(starts) - 1)
        lengths = np.diff(starts)[tasks]
        value = measure(order[ranges(starts[tasks], lengths)])
        if value is not None:
            found.append(value)
    low, high = np.quantile(found, (0.025, 0.975)) if found else (None, None)
    return (float(low), float(high)) if found else (None, None)
