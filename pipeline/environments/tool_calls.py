"""Finds the tool calls in a turn, in the shape that OpenAI gave them; tolerant of what models make of it.

    <tool_call>{"name": "search", "arguments": {"query": "..."}}</tool_call>

Knows no tool.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from pipeline.variants.answers import read_object

MOST_CALLS = 8
"""Of a turn; the others are not looked at."""
_TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|(?=<tool_call>)|\Z)", re.DOTALL)
_FENCED = re.compile(r"```(?:json|tool_call)?\s*(\{.*?\})\s*```", re.DOTALL)


class ToolCall(NamedTuple):
    """A call as it was made. name: None where it cannot be read; problem: why it cannot be made; empty: it can."""

    name: str | None
    arguments: dict[str, Any]
    problem: str = ""


def find_calls(text: str) -> list[ToolCall]:
    """The calls of a turn in their order; none where it makes none.

    A call is what stands between tags, or in a fenced block, or is the whole text, the latter two only if they name
    something to call.
    """
    tagged = _TAGGED.findall(text)
    if tagged:
        return [_read(said) for said in tagged[:MOST_CALLS]]
    fenced = _FENCED.findall(text) or ([text] if text.lstrip().startswith("{") else [])
    found = [_read(said) for said in fenced[:MOST_CALLS]]
    return [call for call in found if call.name is not None]


def calls_json(
    calls: Sequence[ToolCall], worked: Sequence[bool], documents: Sequence[Sequence[str] | None] | None = None
) -> str:
    """Calls as `nodes.tool_calls` has them: a JSON list of objects with name, arguments and ok.

    Those that cannot be made have an error too, those that retrieve have the ids of their documents.

    Args:
        documents: of each call what it retrieved; None: it does not retrieve.
    """
    rows = []
    for call, ok, found in zip(calls, worked, documents or [None] * len(calls), strict=True):
        rows.append({"name": call.name, "arguments": call.arguments, "ok": ok})
        rows[-1] |= {"error": call.problem} if call.problem else {}
        rows[-1] |= {} if found is None else {"documents": found}
    return json.dumps(rows, ensure_ascii=False)


def retrieved(calls: str) -> frozenset[str] | None:
    """Ids of the documents that the calls of a turn retrieved; None where none of them retrieved, so it is no search.

    Args:
        calls: as `calls_json` gives them.
    """
    found = [row["documents"] for row in json.loads(calls) if "documents" in row]
    return frozenset(one for documents in found for one in documents) if found else None


def made(calls: str) -> str | None:
    """What the calls of a turn asked for, equal for equal ones; None where there are none, or one cannot be made.

    Args:
        calls: as `calls_json` gives them.
    """
    rows = json.loads(calls)
    if not rows or any("error" in row for row in rows):
        return None
    return json.dumps([[row["name"], row["arguments"]] for row in rows], sort_keys=True)


def _read(text: str) -> ToolCall:
    found = read_object(text)
    if found is None:
        return ToolCall(None, {}, "the call is no JSON object")
    call = found.get("function") if isinstance(found.get("function"), dict) else found
    name, given = call.get("name"), call.get("arguments", call.get("parameters", {}))
    if not isinstance(name, str) or not name:
        return ToolCall(None, {}, "the call names no tool")
    if isinstance(given, str):
        given = read_object(given)
    if not isinstance(given, dict):
        return ToolCall(name, {}, "the arguments are no JSON object")
    if not _plain(given):
        return ToolCall(name, {}, "the arguments have a number that is too large or none")
    return ToolCall(name, given)


def _plain(given: dict[str, Any]) -> bool:
    """Whether any reader takes it for JSON: Python's own writes NaN and numbers beyond a double too."""
    try:
        json.loads(json.dumps(given, allow_nan=False), parse_int=_double)
    except ValueError:
        return False
    return True


def _double(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(digits)
    return number
