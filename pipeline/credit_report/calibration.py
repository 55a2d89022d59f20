"""Are values what they say? Each against the verdict on a continuation that it was not made from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from pipeline.comparison.lines import Figure
from pipeline.credit.columns import ZERO, rows_by_depth
from pipeline.credit.tables import parent_rows
from pipeline.statistics import expected_calibration_error


class Hidden(NamedTuple):
    """Trees of which some continuations are hidden.

    kept:    `[N]` bool, False for the nodes of hidden continuations.
    outcome: `[N]` float64, at the step that a hidden continuation was drawn from the verdict on it; else NaN.
    """

    kept: np.ndarray
    outcome: np.ndarray


def hide_continuations(nodes: pl.DataFrame) -> Hidden:
    """Hide the last of the judged continuations of every step that has two or more.

    A continuation is a branch: drawn from the step by the policy, so its verdict is a fair draw of what the step's
    value states. All are hidden at once: none enters the value of any step.

    Args:
        nodes: columns `tree`, `node`, `parent`, `depth`, `origin`, `reward`; sorted by tree and node.
    """
    count, parent = len(nodes), parent_rows(nodes)
    branch = (nodes["origin"] == "branch").to_numpy()
    reward = nodes["reward"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    head = np.full(count, -1)
    for rows in rows_by_depth(nodes["depth"].to_numpy()):
        here = rows[branch[rows]]
        inner = branch[parent[here]]
        head[here] = np.where(inner, head[parent[here]], here)
    judged = branch & ~np.isnan(reward)
    heads, place = np.unique(head[judged], return_inverse=True)
    verdict = np.bincount(place, reward[judged]) / np.bincount(place) if len(heads) else np.array([])
    left = parent[heads]
    times = np.bincount(left, minlength=count)
    last = np.full(count, -1)
    last[left] = np.arange(len(heads))  # of several the last is kept, numbers being in order
    steps = np.flatnonzero(times > 1)
    outcome = np.full(count, np.nan)
    outcome[steps] = verdict[last[steps]]
    return Hidden(~np.isin(head, heads[last[steps]]), outcome)


def calibration_error(value: np.ndarray, outcome: np.ndarray) -> Figure | None:
    """Expected calibration error over ten bins of about equal count.

    Value and outcome are those of `hide_continuations`, so a value is made from one continuation less than is stored:
    with few of them a step the figure is more than that of the stored values. Values from two continuations are 0, a
    half or 1 where chances are not, and this counts as error too.

    Args:
        value: `[N]` float64 in [0, 1]; NaN: none.
        outcome: `[N]` float64 in [0, 1].

    Returns:
        None: no step has both.
    """
    known = ~np.isnan(value) & ~np.isnan(outcome)
    if not known.any():
        return None
    return Figure(expected_calibration_error(value[known], outcome[known]), int(known.sum()))


def states_chances(low: float | None, high: float | None) -> bool:
    """Whether the values of a method, from the least to the greatest, can be chances: in [0, 1] and not all alike."""
    return low is not None and high is not None and low >= 0 and high <= 1 and high - low > ZERO
