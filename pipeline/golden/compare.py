"""Compares a method's answer with what a reference vector expects. Knows no method."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Two numbers are alike when they differ by at most `atol + rtol * |expected|`."""

    rtol: float
    atol: float


class Difference(NamedTuple):
    """Where an answer is not what was expected, and both there; for print."""

    field: str
    expected: Any
    found: Any


class Compared(NamedTuple):
    """largest: difference between numbers. different: the first field that is not alike. Null: all are."""

    largest: float
    different: Difference | None


MISSING = "nothing"
"""Stands for what an answer lacks."""


def compare(expected: Any, found: Any, tolerance: Tolerance) -> Compared:
    """Compare two values of JSON, numpy numbers and arrays included.

    A mapping at the top may have more keys than are expected, one inside may not. Null is NaN. A truth value is no
    number; a number that is whole is an integer.
    """
    largest, different = 0.0, None
    for field, wanted, given in _leaves(expected, found, "", more=True):
        gap = _gap(wanted, given)
        if gap is None or not gap <= (tolerance.atol + tolerance.rtol * abs(wanted) if gap else 0):
            different = different or Difference(field, wanted, given)
        largest = max(largest, gap or 0.0)
    return Compared(largest, different)


def plain(value: Any) -> Any:
    """A value as JSON has it: lists, dicts with text for keys, null for NaN."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and math.isnan(value):
        return None
    return value


def _leaves(expected: Any, found: Any, field: str, *, more: bool = False) -> Iterator[tuple[str, Any, Any]]:
    """Pairs of values that hold no others, by field."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in expected:
            at = f"{field}.{key}" if field else str(key)
            if key in found:
                yield from _leaves(expected[key], found[key], at)
            else:
                yield at, expected[key], MISSING
        if not more:
            yield from ((f"{field}.{key}", MISSING, found[key]) for key in found if key not in expected)
    elif isinstance(expected, list) and isinstance(found, list):
        for place, (one, other) in enumerate(zip(expected, found, strict=False)):
            yield from _leaves(one, other, f"{field}[{place}]")
        if len(expected) != len(found):
            yield f"{field} (entries)", len(expected), len(found)
    else:
        yield field, expected, found


def _gap(expected: Any, found: Any) -> float | None:
    """How far apart two values are; null where they are no two numbers and not the same."""
    numbers = [isinstance(value, int | float) and not isinstance(value, bool) for value in (expected, found)]
    if all(numbers):
        return 0.0 if expected == found else abs(float(expected) - float(found))
    return 0.0 if type(expected) is type(found) and expected == found else None
