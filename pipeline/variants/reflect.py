"""Reflect-then-retry (R3L): is a report valid, and what does it blame.

Source: R^3L (Shi et al., 2026), steps 2 and 3 of its generation; a pivot that is no whole number is cast to one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pipeline.variants.answers import read_object

OUTCOMES = ("success", "success_but_inefficient", "failure")
_REQUIRED = ("trajectory_summary", "root_cause_analysis", "trajectory_outcome")


@dataclass(frozen=True, slots=True)
class Reflection:
    """A report that was read.

    valid:   it may lead to a retry, or says that none is needed.
    perfect: it holds the attempt for a success.
    pivot:   0-based step to start again from; None where it names none.
    report:  the JSON, for the next prompt; None where there is none.
    """

    valid: bool
    perfect: bool
    pivot: int | None = None
    report: str | None = None


INVALID = Reflection(valid=False, perfect=False)


def read_reflection(text: str, *, steps: int) -> Reflection:
    """Validate the reflection in a text about an attempt of so many steps."""
    return validate_reflection(read_object(text), steps=steps)


def validate_reflection(report: Any, *, steps: int) -> Reflection:
    """Validate a reflection already parsed; anything but a complete one is invalid."""
    if not isinstance(report, dict) or any(key not in report for key in _REQUIRED):
        return INVALID
    outcome = report["trajectory_outcome"]
    if outcome not in OUTCOMES:
        return INVALID
    if outcome == "success":
        return Reflection(valid=True, perfect=True, report=json.dumps(report))
    pivot = _cast(report.get("retry_from_step"))
    if report.get("improvement_suggestion") is None or pivot is None or not 0 <= pivot < steps:
        return INVALID
    return Reflection(valid=True, perfect=False, pivot=pivot, report=json.dumps(report))


def _cast(value: Any) -> int | None:
    """A whole number out of a number, the text of a whole one or a truth value; None out of anything else."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None
