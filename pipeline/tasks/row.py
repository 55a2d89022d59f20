"""A task as a source yields it, before it has an id."""

from __future__ import annotations

from typing import NamedTuple


class TaskRow(NamedTuple):
    """info: JSON for the verifier; None where it needs nothing."""

    split: str
    question: str
    answer: str
    reference_solution: str | None
    info: str | None
