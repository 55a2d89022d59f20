"""Reads the JSON a policy was asked for. The text is untrusted: nothing of it is run, any of it may be missing."""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple

import json_repair

MOST_REPAIRED = 20_000
"""Characters of what is repaired at most; repairing takes time that grows with their square."""

How = Literal["exact", "repaired"]


class Answer(NamedTuple):
    """found: the object. how: `repaired` where it was no JSON as it stood."""

    found: dict[str, Any]
    how: How


def read_answer(text: str) -> Answer | None:
    """The object between the first `{` and the last `}`, mended where it is nearly JSON.

    Mended are quotes, commas and brackets (json_repair); what was cut off is not: the rest of it was never said.

    Returns:
        None where there is none, or it holds half a surrogate pair.
    """
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        return None
    said = text[start : end + 1]
    for how, read in (("exact", json.loads), ("repaired", _repaired)):
        try:
            found = read(said)
            json.dumps(found, ensure_ascii=False).encode()
        except (ValueError, TypeError, RecursionError):
            continue
        return Answer(found, how) if isinstance(found, dict) else None
    return None


def read_object(text: str) -> dict[str, Any] | None:
    """The object of `read_answer` alone."""
    answer = read_answer(text)
    return None if answer is None else answer.found


def _repaired(text: str) -> Any:
    if len(text) > MOST_REPAIRED:
        raise ValueError("too long to be repaired")
    return json_repair.loads(text, skip_json_loads=True)


def read_index(value: Any) -> int | None:
    """A whole number from what may be a number or its text; None otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | str | float):
        return None
    try:
        number = int(value)
    except (ValueError, OverflowError):
        return None
    return number if not isinstance(value, float) or value == number else None
