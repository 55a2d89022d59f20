"""Values beside the others of their set: less the mean, by the deviation, or less the mean of the others.

Does not know what a set is: trajectories of a task, steps from one state, turns at one position.
"""

from __future__ import annotations

import numpy as np

from pipeline.credit.columns import ZERO, drop_rounding, moments

FORMS = ("mean_norm", "mean_std_norm", "rloo")
"""`x - mean`; `(x - mean) / (std + eps)`; `n / (n - 1) * (x - mean)`, which is x less the mean of the others."""


def normalise(
    values: np.ndarray,
    groups: np.ndarray,
    *,
    count: int,
    form: str,
    eps: float = 1e-6,
    ddof: int = 1,
    members: np.ndarray | None = None,
    keep_lone: bool = True,
) -> np.ndarray:
    """Normalise each value by the statistics of its set.

    Args:
        values: `[M]` float64, no NaN.
        groups: `[M]` int, each value's set, below `count`.
        count: number of sets.
        form: word of FORMS.
        eps: added to the standard deviation.
        ddof: of it.
        members: rows that count for the statistics; every set has one. None: all.
        keep_lone: a set of exactly one member has mean 0 and deviation 1, so that its values stay as they are (over
            `1 + eps` in the form that divides), as verl has it. Otherwise its own mean is taken off.

    Returns:
        `[M]` float64. Exactly 0 for values equal to the members' where those are equal.
    """
    own = values if members is None else values[members]
    own_groups = groups if members is None else groups[members]
    of = moments(own, own_groups, count=count, ddof=ddof)
    some = np.zeros(count)
    some[own_groups] = own
    kept = (of.count == 1) & keep_lone
    mean = np.where(kept, 0.0, np.where(of.alike, some, of.mean))
    centred = drop_rounding(values - mean[groups])
    if form == "mean_norm":
        return centred
    if form == "rloo":
        return centred * np.where(of.count > 1, of.count / np.maximum(of.count - 1, 1), 1.0)[groups]
    std = np.where(kept, 1.0, np.nan_to_num(of.std))
    return centred / (std[groups] + eps)


def lone(groups: np.ndarray, *, count: int, members: np.ndarray | None = None) -> np.ndarray:
    """`[M]` bool: the value's set has exactly one member, so that its statistics say nothing."""
    return (np.bincount(groups if members is None else groups[members], minlength=count) == 1)[groups]


def whiten(values: np.ndarray, token_counts: np.ndarray, *, eps: float = 1e-8, ddof: int = 1) -> np.ndarray:
    """Less the mean and over `sqrt(variance + eps)` of all tokens.

    Args:
        values: `[M]` float64, no NaN, of all tokens of a row.
        token_counts: `[M]` int, how many those are.
        eps: added to the variance.
        ddof: of it.

    Returns:
        `[M]` float64; 0 where there are no more tokens than `ddof`.
    """
    total = int(token_counts.sum())
    if total <= ddof:
        return np.zeros(len(values))
    spoken = values[token_counts > 0]
    alike = spoken.max() - spoken.min() <= ZERO
    mean = spoken[0] if alike else (values * token_counts).sum() / total
    centred = drop_rounding(values - mean)
    variance = 0.0 if alike else (centred**2 * token_counts).sum() / (total - ddof)
    return centred / np.sqrt(variance + eps)
