"""Matching rows with columns by score: the best assignment, the greedy one, and entropic optimal transport.

Does not know what is matched. Scores closer than `_TIE` are ties.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

UNMATCHED = -1
_DIGITS = 12
_TIE = 1e-10


def greedy(scores: np.ndarray) -> np.ndarray:
    """Match the highest score of a free row and column again and again; of ties the first in order of rows.

    Args:
        scores: `[m, n]` float64, at least 0.

    Returns:
        `[m]` int64, column of each row; UNMATCHED where it has none or would score 0.

    Source: the routine that the code of MatchTIR calls Hungarian.
    """
    m, n = scores.shape
    ties = np.round(scores, _DIGITS).ravel()
    order = np.argsort(-ties, kind="stable")
    matched, taken = np.full(m, UNMATCHED, dtype=np.int64), np.zeros(n, dtype=bool)
    for row, column in zip(*divmod(order[ties[order] > 0], n), strict=True):
        if matched[row] == UNMATCHED and not taken[column]:
            matched[row], taken[column] = column, True
    return matched


def optimal(scores: np.ndarray) -> np.ndarray:
    """Match for the highest total; of those the scores that are highest in the first row, then the second and so on;
    of those the lowest columns in that order.

    A solver finds the total. Each row is then held to ever lower scores until the total can be had, and last to ever
    higher columns.

    Args:
        scores: `[m, n]` float64 in [0, 1].

    Returns:
        `[m]` int64, column of each row; UNMATCHED where it has none or would score 0.

    Source: Kuhn-Munkres, as the paper of MatchTIR has it. Deviation: the order among ties, which it leaves open.
    """
    m, n = scores.shape
    never = -1.0 - m  # one such cell costs more than all rows can score
    ties = np.round(scores, _DIGITS)
    free = np.where(np.eye(m, dtype=bool), 0.0, never)  # a column of its own for each row that stays unmatched
    allowed = np.hstack((np.where(ties > 0, ties, never), free))
    rows = np.arange(m)
    column = _solve(allowed)
    best = allowed[rows, column].sum()

    def held(row: int, kept: np.ndarray) -> bool:
        """Whether the total can be had with the row held to some columns; if so, it is held."""
        nonlocal allowed, column
        trial = allowed.copy()
        trial[row, ~kept] = never
        found = _solve(trial)
        if trial[rows, found].sum() < best - _TIE:
            return False
        allowed, column = trial, found
        return True

    for row in rows:
        score = allowed[row, column[row]]
        higher = np.unique(ties[row][ties[row] > score])[::-1]
        if not any(held(row, allowed[row] == other) for other in higher):
            allowed[row, allowed[row] != score] = never
    for row in rows[column < n]:
        lower = np.flatnonzero(allowed[row, : column[row]] != never)
        chosen = next((other for other in lower if held(row, np.arange(n + m) == other)), column[row])
        allowed[row, np.arange(n + m) != chosen] = never
    return np.where(column < n, column, UNMATCHED)


def transport(scores: np.ndarray, *, regularisation: float, iterations: int = 1000, error: float = 1e-9) -> np.ndarray:
    """Entropic optimal transport between uniform marginals at cost `-scores`, by Sinkhorn's iterations in logarithms.

    Args:
        scores: `[B, m, n]` float64, problems of one shape; each is solved by itself.
        regularisation: of the entropy, positive; a plan is the scaled kernel `exp(scores / regularisation)`.
        iterations: at most.
        error: Euclidean, of the marginal of columns, at which a problem is done.

    Returns:
        `[B, m, n]` float64, plans; rows sum to `1 / m`, columns to `1 / n`.

    Source: Cuturi (2013); the plan is what POT's `sinkhorn` gives.
    """
    count, m, n = scores.shape
    kernel = scores / regularisation
    rows, columns = np.zeros((count, m)), np.zeros((count, n))
    active = np.arange(count)
    for _ in range(iterations):
        here = kernel[active]
        columns[active] = -np.log(n) - _logsumexp(here + rows[active][:, :, None], axis=1)
        rows[active] = -np.log(m) - _logsumexp(here + columns[active][:, None, :], axis=2)
        marginal = np.exp(here + rows[active][:, :, None] + columns[active][:, None, :]).sum(axis=1)
        active = active[np.linalg.norm(marginal - 1.0 / n, axis=1) > error]
        if not len(active):
            break
    return np.exp(kernel + rows[:, :, None] + columns[:, None, :])


def _solve(allowed: np.ndarray) -> np.ndarray:
    """`[m]`: column of each row under the highest total."""
    return linear_sum_assignment(allowed, maximize=True)[1]


def _logsumexp(values: np.ndarray, *, axis: int) -> np.ndarray:
    highest = values.max(axis=axis, keepdims=True)
    return (highest + np.log(np.exp(values - highest).sum(axis=axis, keepdims=True))).squeeze(axis)
