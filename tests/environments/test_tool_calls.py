"""Tool calls as models write them, rightly and not."""

from __future__ import annotations

import json

import polars as pl
import pytest

from pipeline.credit.san import find_searches
from pipeline.credit.tool_calls import read_calls
from pipeline.environments.tool_calls import MOST_CALLS, ToolCall, calls_json, find_calls

CALL = '{"name": "search", "arguments": {"query": "x"}}'
FOUND = ToolCall("search", {"query": "x"})


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        pytest.param("#### 42", [], id="an answer"),
        pytest.param(f"I look.\n<tool_call>{CALL}</tool_call>", [FOUND], id="tagged"),
        pytest.param(f"<tool_call>\n{CALL}\n", [FOUND], id="tag left open"),
        pytest.param(f"<tool_call>{CALL}<tool_call>{CALL}</tool_call>", [FOUND, FOUND], id="two, one left open"),
        pytest.param(f"```json\n{CALL}\n```", [FOUND], id="fenced"),
        pytest.param(CALL, [FOUND], id="bare"),
        pytest.param('{"x": 1}', [], id="an object that calls nothing is an answer"),
        pytest.param(
            '<tool_call>{"type": "function", "function": {"name": "search", "arguments": "{\\"query\\": \\"x\\"}"}}',
            [FOUND],
            id="OpenAI's own, arguments as text",
        ),
        pytest.param("<tool_call>{'name': 'search', 'arguments': {'query': 'x'}}", [FOUND], id="nearly JSON"),
        pytest.param('<tool_call>{"name": "search"}</tool_call>', [ToolCall("search", {})], id="no arguments"),
        pytest.param("<tool_call>search x", [ToolCall(None, {}, "the call is no JSON object")], id="no JSON"),
        pytest.param("<tool_call>{}", [ToolCall(None, {}, "the call names no tool")], id="no name"),
        pytest.param(
            '<tool_call>{"name": 3}', [ToolCall(None, {}, "the call names no tool")], id="a number for a name"
        ),
        pytest.param(
            '<tool_call>{"name": "f", "arguments": [1]}',
            [ToolCall("f", {}, "the arguments are no JSON object")],
            id="a list for arguments",
        ),
        *(
            pytest.param(
                f'<tool_call>{{"name": "f", "arguments": {{"x": [{number}]}}}}',
                [ToolCall("f", {}, "the arguments have a number that is too large or none")],
                id=f"{number:.9} for a number",
            )
            for number in ("NaN", "-Infinity", "1e999", "9" * 400)
        ),
    ],
)
def test_find_calls(text, calls):
    assert find_calls(text) == calls


def test_a_flood_of_calls_is_cut():
    assert len(find_calls(f"<tool_call>{CALL}</tool_call>" * 1000)) == MOST_CALLS


def test_credit_reads_what_is_kept():
    kept = calls_json(find_calls(f"<tool_call>{CALL}</tool_call><tool_call>broken"), [True, False])
    assert [call.name for call in read_calls(kept)] == ["search", None]
    assert [call["ok"] for call in json.loads(kept)] == [True, False]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "9" * 400, "9" * 30, "9" * 5000])
def test_polars_reads_what_is_kept(number):
    calls = find_calls(f'<tool_call>{{"name": "search", "arguments": {{"query": {number}}}}}')
    kept = pl.Series([calls_json(calls, [False])])
    assert find_searches(kept).hit.tolist() == [False]
