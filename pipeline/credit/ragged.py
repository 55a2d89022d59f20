"""Rows of unequal length in one flat array: sums along a row, and two arrays that must have the same rows.

Does not know what a row is: a response of tokens, a trajectory of steps. No row touches another one's numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.credit.compiled import kernels
from pipeline.errors import BadTable


class Ragged(NamedTuple):
    """`R` rows.

    values:  `[T]`, row after row.
    offsets: `[R + 1]` int64, where each row begins; the last is `T`.
    """

    values: np.ndarray
    offsets: np.ndarray


def ragged(rows: Iterable[Sequence[float | None]], dtype: type = np.float64) -> Ragged:
    """Lists as one flat array; None becomes NaN."""
    listed = [list(row) for row in rows]
    flat = np.array([np.nan if value is None else value for row in listed for value in row], dtype=dtype)
    return Ragged(flat, np.cumsum([0, *map(len, listed)], dtype=np.int64))


def split(values: np.ndarray, offsets: np.ndarray) -> list[np.ndarray]:
    """The rows, each an array."""
    return np.split(values, offsets[1:-1]) if len(offsets) > 1 else []


def rows_of(offsets: np.ndarray) -> np.ndarray:
    """`[T]` int64: the row of each entry."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def row_sums(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """`[R]` float64: sum of each row; 0 for an empty one."""
    return np.bincount(rows_of(offsets), weights=values, minlength=len(offsets) - 1).astype(np.float64, copy=False)


def last_places(offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows that are not empty, and the place of the last entry of each."""
    rows = np.flatnonzero(np.diff(offsets) > 0)
    return rows, offsets[rows + 1] - 1


def suffix_sums(values: np.ndarray, offsets: np.ndarray, *, discount: float = 1.0) -> np.ndarray:
    """`[T]` float64: each entry plus those after it in its row, an entry `k` places later times `discount ** k`."""
    return decayed_sums(values, np.full(len(values), discount), offsets)


def decayed_sums(values: np.ndarray, decay: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """`[T]` float64: each entry plus its decay times the sum that begins after it in its row.

    Args:
        values, decay: `[T]` float64.
        offsets: `[R + 1]` int64, where each row begins.
    """
    if fast := kernels(len(values)):
        return fast.decayed_sums(np.ascontiguousarray(values, np.float64), decay, offsets)
    factor = decay.copy()

    def add(places: np.ndarray, hop: int, total: np.ndarray) -> None:
        total[places] += factor[places] * total[places + hop]
        factor[places] *= factor[places + hop]

    return _fold(values, offsets, add)


def suffix_minima(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """`[T]` float64: the least of each entry and those after it in its row."""

    def least(places: np.ndarray, hop: int, folded: np.ndarray) -> None:
        folded[places] = np.minimum(folded[places], folded[places + hop])

    return _fold(values, offsets, least)


def prefix_sums(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """`[T]` float64: each entry plus those before it in its row."""
    return suffix_sums(values[::-1], offsets[-1] - offsets[::-1])[::-1]


def log_ratios(
    policy: Ragged, reference: Ragged, *, names: tuple[str, str] = ("the policy", "the reference")
) -> np.ndarray:
    """`[T]` float64: log-probability of each token less its log-probability under the other model, in nats.

    Args:
        policy: natural log-probabilities, a row a response or a step; NaN where unknown.
        reference: of the same tokens.
        names: of both models, for print.

    Raises:
        BadTable: a row of one has not the tokens of the other's; names the row.
    """
    require_same_rows(policy.offsets, reference.offsets, names=names)
    return policy.values.astype(np.float64) - reference.values.astype(np.float64)


def require_same_rows(offsets: np.ndarray, other: np.ndarray, *, names: tuple[str, str]) -> None:
    """Check that two ragged arrays have rows of the same lengths.

    Raises:
        BadTable: they have not; names the first row that differs.
    """
    remedy = "score the same tokens with both, by one tokenizer, and give one number a token"
    if len(offsets) != len(other):
        raise BadTable(f"{names[0]} has {len(offsets) - 1} rows, {names[1]} has {len(other) - 1}", remedy=remedy)
    lengths, others = np.diff(offsets), np.diff(other)
    if (lengths != others).any():
        row = int(np.argmax(lengths != others))
        culprit = f"row {row}: {names[0]} has {lengths[row]} numbers, {names[1]} has {others[row]}"
        raise BadTable(culprit, remedy=remedy)


def _fold(
    values: np.ndarray, offsets: np.ndarray, combine: Callable[[np.ndarray, int, np.ndarray], None]
) -> np.ndarray:
    """Let each entry take in all after it in its row, over spans that double: as many passes as the longest row has
    binary digits. combine: lets entries at some places take in those a hop further, in place."""
    lengths = np.diff(offsets)
    after = np.repeat(offsets[1:], lengths) - np.arange(len(values)) - 1
    folded, hop = values.astype(np.float64), 1
    while len(places := np.flatnonzero(after >= hop)):
        combine(places, hop, folded)
        hop *= 2
    return folded
