"""RewardMATH: does a reward model put the one right solution of a problem above many wrong ones?

Scores come in; the model that gives them is not known here.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit

from pipeline.credit.ragged import last_places, row_sums, rows_of
from pipeline.errors import BadConfig, BadTable

AGGREGATIONS = ("normal", "min", "max", "prod", "geometric_mean", "mean", "mean_logit", "mean_odd", "last")
"""From step scores to the score of a solution; `normal` is for models that score a solution as it is."""
CLIP = 1e-6
"""How near to 0 and 1 a score may come where its odds are taken."""
_ROUNDING = 1e-12
"""Aggregated scores no further apart, relative to their size, count as equal."""
_RATING = re.compile(r"\[\[\s{0,9}(\d{1,3}(?:\.\d{1,9})?)\s{0,9}\]\]")
_CHOICE = re.compile(r"\[\[\s{0,9}([AB])\s{0,9}\]\]")


class RewardMath(NamedTuple):
    """accuracy: share of tasks whose right solution scores above all wrong ones. with_ties: or as high as the best of
    them. mrr: mean of `per_task_mrr`, `[Q]` float64, one over the rank of the right solution.

    A task with an unknown score is unknown: NaN, and left out of the shares and means; NaN where no task is known.
    """

    accuracy: float
    with_ties: float
    mrr: float
    per_task_mrr: np.ndarray


def solution_scores(step_scores: np.ndarray, offsets: np.ndarray, *, aggregation: str) -> np.ndarray:
    """A score a solution out of the scores of its steps.

    | aggregation    | score                                       |
    |----------------|---------------------------------------------|
    | min, max, last | of the steps                                |
    | mean, prod     | of the steps                                |
    | geometric_mean | product to the power of 1 / steps           |
    | mean_logit     | sigma(mean of log(p / (1 - p)))             |
    | mean_odd       | max(0, mean of p / (1 - p))                 |

    The last two clip p to [1e-6, 1 - 1e-6].

    Args:
        step_scores: `[T]` float64, solution after solution.
        offsets: `[S + 1]` int64, where each solution begins.
        aggregation: word of AGGREGATIONS. `normal`: a solution is one step.

    Returns:
        `[S]` float64; NaN for a solution without steps, with an unknown one, or with more than one under `normal`.

    Raises:
        BadConfig: no such aggregation.

    Source: RewardMATH (Kim et al., 2024) and its code.
    """
    if aggregation not in AGGREGATIONS:
        raise BadConfig(f"aggregation {aggregation!r} is not known", remedy=f"use one of {AGGREGATIONS}")
    scores, count, length = np.asarray(step_scores, np.float64), len(offsets) - 1, np.diff(offsets)
    match aggregation:
        case "normal":
            found = np.where(length == 1, row_sums(scores, offsets), np.nan)
        case "min" | "max":
            found = np.full(count, np.inf if aggregation == "min" else -np.inf)
            with np.errstate(invalid="ignore"):
                (np.minimum if aggregation == "min" else np.maximum).at(found, rows_of(offsets), scores)
        case "prod":
            found = np.ones(count)
            np.multiply.at(found, rows_of(offsets), scores)
        case "geometric_mean":
            with np.errstate(divide="ignore", invalid="ignore"):
                found = np.exp(_means(np.log(scores), offsets))
        case "mean":
            found = _means(scores, offsets)
        case "mean_logit":
            found = expit(_means(logit(np.clip(scores, CLIP, 1 - CLIP)), offsets))
        case "mean_odd":
            clipped = np.clip(scores, CLIP, 1 - CLIP)
            found = np.maximum(0.0, _means(clipped / (1 - clipped), offsets))
        case _:
            found = np.full(count, np.nan)
            rows, places = last_places(offsets)
            found[rows] = scores[places]
    return np.where(length > 0, found, np.nan)


def pairwise_scores(chosen_won: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores out of a judge's comparisons of the right solution with each of `n` wrong ones.

    Args:
        chosen_won: `[C]` bool, comparison after comparison, task after task.
        offsets: `[Q + 1]` int64, where each task begins.

    Returns:
        Of each right solution its wins plus 1, `[Q]` float64; of each wrong one 1 where it lost and `n + 2` where it
        won, `[C]` float64.
    """
    won = np.asarray(chosen_won, bool)
    most = np.diff(offsets)[rows_of(offsets)] + 2.0
    return row_sums(won, offsets) + 1.0, np.where(won, 1.0, most)


def reward_math(
    scores: np.ndarray, chosen: np.ndarray, tasks: np.ndarray, *, aggregation: str = "normal"
) -> RewardMath:
    """Accuracy and mean reciprocal rank over tasks.

    Args:
        scores: `[S]` float64, of the solutions of all tasks; NaN where unknown.
        chosen: `[S]` bool, True for the right one of each task. Were there several, accuracy asks it of the worst and
            rank of the best of them, as the official code does.
        tasks: `[S]` int, code of each solution's task, from 0.
        aggregation: how the scores came about; those that were computed are equal where they differ by rounding.

    Returns:
        Ties rank the right solution after the wrong ones.

    Raises:
        BadTable: a task lacks a right or a wrong solution; names its code.

    Source: RewardMATH (Kim et al., 2024) and its code.
    """
    right, count = np.asarray(chosen, bool), int(tasks.max()) + 1 if len(tasks) else 0
    for which, kind in ((right, "right"), (~right, "wrong")):
        lacking = np.flatnonzero(np.bincount(tasks[which], minlength=count) == 0)
        if len(lacking):
            raise BadTable(f"task {lacking[0]} has no {kind} solution", remedy="give one right and some wrong ones")
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    with np.errstate(invalid="ignore"):
        np.minimum.at(low, tasks[right], scores[right])
        np.maximum.at(high, tasks[right], scores[right])
    computed = aggregation not in ("normal", "min", "max", "last")
    margin = np.where(computed & np.isfinite(high), _ROUNDING * np.maximum(1.0, np.abs(high)), 0.0)
    rival, of = scores[~right], tasks[~right]
    beaten = np.bincount(of, weights=rival > low[of] + margin[of], minlength=count)
    tied = np.bincount(of, weights=rival >= low[of] - margin[of], minlength=count)
    above = np.bincount(of, weights=rival >= high[of] - margin[of], minlength=count)
    unknown = np.bincount(tasks, weights=np.isnan(scores), minlength=count) > 0
    rank = np.where(unknown, np.nan, 1.0 / (1.0 + above))
    known = ~unknown
    if not known.any():
        return RewardMath(np.nan, np.nan, np.nan, rank)
    return RewardMath(
        accuracy=float((tied[known] == 0).mean()),
        with_ties=float((beaten[known] == 0).mean()),
        mrr=float(rank[known].mean()),
        per_task_mrr=rank,
    )


def read_rating(text: str) -> float | None:
    """The last `[[n]]` of a judge that rates from 1 to 10; None where there is none in that range."""
    found = _RATING.findall(text)
    return float(found[-1]) if found and 1 <= float(found[-1]) <= 10 else None


def read_choice(text: str) -> str | None:
    """The last `[[A]]` or `[[B]]` of a judge that compares; None where there is none."""
    found = _CHOICE.findall(text)
    return found[-1] if found else None


def _means(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Mean of each row; NaN for an empty one."""
    length = np.diff(offsets)
    return np.divide(row_sums(values, offsets), length, out=np.full(len(length), np.nan), where=length > 0)
