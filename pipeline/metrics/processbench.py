"""ProcessBench: does a model name the first wrong step of a solution, and does it leave right ones alone?

Does not run models: predictions are made here from the scores or verdicts a model gave the steps.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipeline.credit.ragged import rows_of
from pipeline.statistics import MeanInterval

DRAWS = 1000
"""Of a bootstrap."""
RIGHT = -1
"""The label of a solution, and the prediction, when no step is wrong."""


class Scores(NamedTuple):
    """In percent. error_accuracy: of the solutions with a wrong step, those whose first is named. correct_accuracy: of
    the others, those predicted to be right. f1: harmonic mean of both, 0 where both are 0. NaN: there is no such
    solution; of f1, where there are none of one kind."""

    error_accuracy: float
    correct_accuracy: float
    f1: float


class Report(NamedTuple):
    """scores: of each subset, by its name, sorted. mean_f1: plain mean over subsets; NaN where one has none."""

    scores: dict[str, Scores]
    mean_f1: float


def processbench(labels: np.ndarray, predictions: np.ndarray) -> Scores:
    """Score the predictions of one subset.

    Args:
        labels: `[M]` int, place of the first wrong step, from 0; -1 where all are right.
        predictions: `[M]` float64 in the same form; NaN: none was made, which is wrong.

    Source: ProcessBench (Zheng et al., 2024).
    """
    exact, wrong = labels == predictions, labels != RIGHT
    error, correct = _percent(exact[wrong]), _percent(exact[~wrong])
    total = error + correct
    return Scores(error, correct, 2 * error * correct / total if total else total)


def report(labels: np.ndarray, predictions: np.ndarray, subsets: np.ndarray) -> Report:
    """Score each subset by itself.

    Args:
        labels, predictions: `[M]`, as `processbench` takes them.
        subsets: `[M]` names, such as gsm8k, math, olympiadbench and omnimath.
    """
    names, codes = np.unique(subsets, return_inverse=True)
    scores = {
        str(name): processbench(labels[codes == code], predictions[codes == code]) for code, name in enumerate(names)
    }
    return Report(scores, float(np.mean([score.f1 for score in scores.values()])) if scores else np.nan)


def f1_interval(labels: np.ndarray, predictions: np.ndarray, groups: np.ndarray) -> MeanInterval:
    """F1 in [0, 1] and the 95 % interval of its bootstrap over groups: whole groups are drawn with replacement.

    Args:
        labels: `[M]` int. predictions: `[M]` float64, or `[R, M]` of several models trained alike (seeds), of whose
            F1 the mean is taken; models are drawn with replacement too.
        groups: `[M]` int, such as the task of each solution.

    Returns:
        None: there are no solutions of one kind.
    """
    drawn = _bootstrapped_f1(labels, predictions, groups)
    return _interval(drawn[0], drawn[1:])


def f1_difference(labels: np.ndarray, predictions: np.ndarray, others: np.ndarray, groups: np.ndarray) -> MeanInterval:
    """F1 of some predictions less that of others on the same solutions, in [-1, 1], and its bootstrap's 95 % interval.

    Args:
        labels, groups: as `f1_interval` takes them; the groups drawn are the same for both.
        predictions, others: `[R, M]` and `[S, M]`, or `[M]`; models are drawn apart.
    """
    one, two = (_bootstrapped_f1(labels, some, groups, seed=seed) for seed, some in enumerate((predictions, others)))
    return _interval(one[0] - two[0], one[1:] - two[1:])


def _interval(value: float, drawn: np.ndarray) -> MeanInterval:
    known = drawn[~np.isnan(drawn)]
    if np.isnan(value) or not len(known):
        return MeanInterval(None, None, None)
    low, high = np.quantile(known, (0.025, 0.975))
    return MeanInterval(float(value), float(low), float(high))


def _bootstrapped_f1(labels: np.ndarray, predictions: np.ndarray, groups: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """`[1 + DRAWS]`: mean F1 over models on all solutions, then on each draw of groups and models; NaN: undefined."""
    several = np.atleast_2d(predictions)
    codes = np.unique(groups, return_inverse=True)[1]
    count, wrong, exact = int(codes.max(initial=-1)) + 1, labels != RIGHT, several == labels
    sizes = np.stack([np.bincount(codes, weights=kind, minlength=count) for kind in (wrong, ~wrong)])
    hits = np.stack(
        [[np.bincount(codes, weights=row & kind, minlength=count) for row in exact] for kind in (wrong, ~wrong)]
    )
    tasks, models = np.random.default_rng(0), np.random.default_rng((1, seed))
    times = [np.ones(count)]
    times += [np.bincount(tasks.integers(count, size=count), minlength=count) for _ in range(DRAWS)] if count else []
    picks = [np.arange(len(several)), *models.integers(len(several), size=(DRAWS, len(several)))]
    with np.errstate(invalid="ignore", divide="ignore"):
        error, correct = np.einsum("kmg,dg->kdm", hits, times) / (sizes @ np.transpose(times))[:, :, None]
        f1 = np.where(error + correct == 0, 0.0, 2 * error * correct / (error + correct))
    return np.array([row[pick].mean() for row, pick in zip(f1, picks, strict=False)])


def first_below(scores: np.ndarray, offsets: np.ndarray, threshold: float) -> np.ndarray:
    """`[M]` int64: place of the first step scored below the threshold, -1 if none is; a PRM's prediction.

    Args:
        scores: `[P]` float64, solution after solution; NaN: not scored, never below.
        offsets: `[M + 1]` int64, where each solution begins.
        threshold: as `best_threshold` finds it.
    """
    return _first(scores < threshold, offsets)


def first_negative(verdicts: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """`[M]` int64: place of the first step called wrong, -1 if none is; a generative model's prediction.

    Args:
        verdicts: `[P]` float64, above 0 where the model wrote `+`, below where `-`; NaN: unreadable, taken for `-`.
        offsets: `[M + 1]` int64, where each solution begins.
    """
    return _first(~(verdicts > 0), offsets)


def best_threshold(scores: np.ndarray, offsets: np.ndarray, *, labels: np.ndarray, candidates: np.ndarray) -> float:
    """The candidate with the greatest F1, the first of equals; to be found on one subset and kept for all.

    Args:
        scores: `[P]` float64, solution after solution.
        offsets: `[M + 1]` int64, where each solution begins.
        labels: `[M]` int, as `processbench` takes them, of both kinds.
        candidates: `[V]` float64, tried in order.
    """
    found = [processbench(labels, first_below(scores, offsets, candidate)).f1 for candidate in candidates]
    return float(candidates[int(np.argmax(found))])


def _percent(hits: np.ndarray) -> float:
    return 100.0 * float(hits.mean()) if len(hits) else np.nan


def _first(marked: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    places = np.flatnonzero(marked)
    solutions, where = np.unique(rows_of(offsets)[places], return_index=True)
    first = np.full(len(offsets) - 1, RIGHT)
    first[solutions] = places[where] - offsets[solutions]
    return first
