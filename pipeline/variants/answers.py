"""Reads the JSON a policy was asked for. The text is untrusted: nothing of it is run, any of it may be missing."""

from __future__ import annotations

import json
from typing import Any


def read_object(text: str) -> dict[str, Any] | None:
    """The object between the first `{` and the last `}`; None where that is none, or holds half a surrogate pair."""
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        return None
    try:
        found = json.loads(text[start : end + 1])
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def read_index(value: Any) -> int | None:
    """A whole number from what may be a number or its text; None otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | str | float):
        return None
    try:
        number = int(value)
    except (ValueError, OverflowError):
        return None
    return number if not isinstance(value, float) or value == number else None
