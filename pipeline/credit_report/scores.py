"""What methods say of the same steps, side by side: how alike they are, and where they say nothing.

Knows no table and no method; a method is a column.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.comparison.lines import Figure
from pipeline.credit.columns import ZERO
from pipeline.statistics import MeanInterval, auc_interval, correlation, mean_ranks, pooled_share_interval, wilson


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """`N` steps under `M` methods.

    score: `[N, M]` float32: the advantage a method gives the step, or a labeller's chance of success; NaN: none.
    task:  `[N]` int, each step's task.
    right: `[N]` float32: 1 right and 0 wrong by the oracle, of steps that no wrong one precedes; NaN: it says nothing.
    attempt, step: `[P]` int, the plain attempts: for each step of each the attempt's number and its row among the
        steps; attempts lie together, their steps in order.
    """

    score: np.ndarray
    task: np.ndarray
    right: np.ndarray
    attempt: np.ndarray
    step: np.ndarray


def oracle_auc(scores: Scores, method: int) -> Figure | None:
    """Area under the ROC curve of right steps against first wrong ones, with its bootstrap over tasks.

    Returns:
        None: the oracle says nothing of any step.
    """
    if np.isnan(scores.right).all():
        return None
    score = scores.score[:, method]
    seen = ~np.isnan(score) & ~np.isnan(scores.right)
    found = auc_interval(score[seen], scores.right[seen] == 1, scores.task[seen])
    return Figure(found.mean, int(seen.sum()), found.low, found.high)


def first_error_accuracy(scores: Scores, method: int, *, zero_is_wrong: bool = False) -> Figure | None:
    """How often a method's lowest step is the first wrong one.

    Counted are the plain attempts with a wrong step by the oracle in which the method scores every step up to the
    first wrong one, and two steps at least. Its pick is the first of the steps it scores lowest, over the whole
    attempt: a step after the first wrong one can be picked, wrongly. An attempt whose scored steps are all alike has
    no pick and is a miss: a method that credits whole attempts has 0 here, however well it tells attempts apart.
    All attempts weigh alike; the interval is that of a bootstrap over tasks.

    Args:
        zero_is_wrong: scores are chances of success, so that steps that are all 0 do have a pick: the first.

    Returns:
        None: the oracle says nothing of any step.
    """
    if np.isnan(scores.right).all():
        return None
    attempt, score, right = scores.attempt, scores.score[scores.step, method], scores.right[scores.step]
    known, wrong = ~np.isnan(score), right == 0
    number = int(attempt.max(initial=-1)) + 1
    places = np.arange(len(attempt))
    error = np.full(number, len(attempt))
    np.minimum.at(error, attempt[wrong], places[wrong])
    unscored = np.bincount(attempt[~known & (places <= error[attempt])], minlength=number)
    low, high = np.full(number, np.inf), np.full(number, -np.inf)
    np.minimum.at(low, attempt[known], score[known])
    np.maximum.at(high, attempt[known], score[known])
    pick = np.full(number, -1)
    lowest = np.flatnonzero(known & (score == low[attempt]))[::-1]
    pick[attempt[lowest]] = lowest  # the first of a tie is written last
    counted = (error < len(attempt)) & (unscored == 0) & (np.bincount(attempt[known], minlength=number) > 1)
    told = (high - low > ZERO) | (zero_is_wrong & (high == 0))
    hit = counted & told & (pick == error)
    task = np.zeros(number, np.int64)
    task[attempt] = scores.task[scores.step]
    found = pooled_share_interval(np.bincount(task[counted], hit[counted]), np.bincount(task[counted]))
    return Figure(found.mean, int(counted.sum()), found.low, found.high)


def zero_share(scores: Scores, method: int) -> Figure:
    """Share of the steps a method credits that it credits with 0."""
    score = scores.score[:, method]
    known = score[~np.isnan(score)]
    return Figure(float((np.abs(known) <= ZERO).mean()) if len(known) else None, len(known))


def degenerate_share(scores: Scores, method: int) -> Figure:
    """Share of the tasks with two credited steps or more in which all have the same credit; Wilson's interval."""
    score = scores.score[:, method]
    known = ~np.isnan(score)
    task, score = scores.task[known], score[known].astype(np.float64)
    number = int(task.max(initial=-1)) + 1
    low, high = np.full(number, np.inf), np.full(number, -np.inf)
    np.minimum.at(low, task, score)
    np.maximum.at(high, task, score)
    some = np.bincount(task, minlength=number) > 1
    count = int(some.sum())
    if not count:
        return Figure(None, 0)
    alike = int((high[some] - low[some] <= ZERO).sum())
    ends = wilson(alike, count)
    found = MeanInterval(alike / count, *(float(end) for end in ends))
    return Figure(found.mean, count, found.low, found.high)


def rank_correlations(scores: Scores) -> dict[tuple[int, int], Figure]:
    """Spearman's correlation of every two methods over the steps both score; by the numbers of both, either way round.

    Null where one of them is constant there.
    """
    known = ~np.isnan(scores.score)
    patterns, pattern = np.unique(np.packbits(known, axis=0), axis=1, return_inverse=True)
    pattern = pattern.reshape(-1)
    of = [known[:, int(np.argmax(pattern == number))] for number in range(patterns.shape[1])]
    ranks: dict[tuple[int, int], np.ndarray] = {}

    def ranked(method: int, other: int) -> np.ndarray:
        """A method's ranks among the steps that the other scores too; many score the same ones."""
        key = (method, int(pattern[other]))
        if key not in ranks:
            ranks[key] = mean_ranks(scores.score[of[pattern[method]] & of[pattern[other]], method])
        return ranks[key]

    found = {}
    for one in range(scores.score.shape[1]):
        for other in range(one):
            first, second = ranked(one, other), ranked(other, one)
            found[one, other] = found[other, one] = Figure(correlation(first, second), len(first))
    return found
