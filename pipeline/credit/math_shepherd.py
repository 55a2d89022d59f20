"""Math-Shepherd: a step is labelled by how often completions from behind it come out right.

Draws no completions; the labels go to a process reward model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.credit.columns import ZERO, mean_by
from pipeline.credit.ragged import rows_of
from pipeline.errors import check_words

AGGREGATES = ("minimum", "product")
"""How the scores of steps become one of a solution."""


@dataclass(frozen=True, slots=True)
class MathShepherdParams:
    """Parameters of Math-Shepherd.

    n_rollouts: completions to draw from a prefix.
    aggregate: word of AGGREGATES.

    Raises:
        BadConfig: no such word.
    """

    n_rollouts: int = 8
    aggregate: str = "minimum"

    def __post_init__(self) -> None:
        check_words(self, of="math_shepherd", aggregate=AGGREGATES)


DEFAULTS = MathShepherdParams()


class StepLabels(NamedTuple):
    """Labels of `P` steps.

    soft: `[P]` float64 in [0, 1], mean reward of the samples; NaN without one.
    hard: `[P]` float64, 1 where one of them came out right, else 0; NaN without one.
    n_rollouts: `[P]` int64, samples with a verdict.
    """

    soft: np.ndarray
    hard: np.ndarray
    n_rollouts: np.ndarray


def math_shepherd(rewards: np.ndarray, prefixes: np.ndarray, *, steps: np.ndarray, outcomes: np.ndarray) -> StepLabels:
    """Label each step by the completions of the prefix that ends with it, a final step by its own outcome.

    Args:
        rewards: `[K]` float64 in [0, 1], of completions; NaN: no verdict, left out.
        prefixes: `[K]` int, code from 0 of the prefix each continues. Equal prefixes have one code, whatever
            solutions they stand in, and so share their completions.
        steps: `[P]` int, code of the prefix that ends with the step.
        outcomes: `[P]` float64, what the solution earned whose final step it is; NaN at other steps.

    Returns:
        Labels in the order of `steps`, not forced to be monotone along a solution.

    Source: Math-Shepherd (Wang et al., 2024), soft and hard estimation.
    """
    known = ~np.isnan(rewards)
    count = 1 + max(int(prefixes.max(initial=-1)), int(steps.max(initial=-1)))
    drawn = np.bincount(prefixes[known], minlength=count)[steps]
    share = mean_by(prefixes[known], rewards[known], count)[steps]
    final = ~np.isnan(outcomes)
    soft = np.where(final, outcomes, share)
    hard = np.where(np.isnan(soft), np.nan, soft > ZERO)
    return StepLabels(soft, hard, np.where(final, 1, drawn))


def first_error_index(hard: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """`[M]` int64: place of the first step with hard label 0 in each solution, -1 if there is none.

    Args:
        hard: `[P]` float64, solution after solution; NaN: undecided, no error.
        offsets: `[M + 1]` int64, where each solution begins.
    """
    wrong = np.flatnonzero(hard == 0)
    solutions, where = np.unique(rows_of(offsets)[wrong], return_index=True)
    first = np.full(len(offsets) - 1, -1)
    first[solutions] = wrong[where] - offsets[solutions]
    return first


def solution_scores(scores: np.ndarray, offsets: np.ndarray, params: MathShepherdParams = DEFAULTS) -> np.ndarray:
    """`[M]` float64: the least score of a solution's steps, or their product.

    Args:
        scores: `[P]` float64, solution after solution; NaN: unknown, as is its solution's then.
        offsets: `[M + 1]` int64, where each solution begins. One without steps has no score.
        params: which of both.
    """
    filled = np.flatnonzero(np.diff(offsets) > 0)
    found = np.full(len(offsets) - 1, np.nan)
    if len(filled):
        fold = np.minimum if params.aggregate == "minimum" else np.multiply
        found[filled] = fold.reduceat(scores, offsets[:-1][filled])
    return found
