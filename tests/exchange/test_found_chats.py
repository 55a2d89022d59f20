"""Chats as real files hold them: old names, refusals, parts; they come in, and leave again as they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from exchange.imported import as_lines, bring_in, faults_in, send_out, table, violations, work_at

from pipeline.stages.exports import ExportConfig, write_exports

LS = {"name": "ls", "arguments": "{}"}
CALL = {"id": "c", "type": "function", "function": LS}
CUSTOM = {"id": "c", "type": "custom", "custom": {"name": "py", "input": "1"}}
ODD = {
    "developer, parts, null beside calls, reasoning": (
        [
            {"role": "developer", "content": "Be short."},
            {"role": "user", "content": [{"type": "text", "text": "See"}, {"type": "image_url"}, "this"]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c", "type": "function", "function": LS}],
                "reasoning_content": "Hm.",
            },
            {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "a.txt"}]},
            {"role": "developer", "content": "Hurry."},
            {"role": "assistant", "content": "Done."},
        ],
        [("prompt", "See\nthis"), ("step", ""), ("prompt", "a.txt"), ("prompt", "Hurry."), ("step", "Done.")],
    ),
    "functions, as tools were called": (
        [
            {"role": "user", "content": "List."},
            {"role": "assistant", "content": None, "function_call": LS},
            {"role": "function", "name": "ls", "content": "a.txt"},
        ],
        [("prompt", "List."), ("step", ""), ("prompt", "a.txt")],
    ),
    "refusal": (
        [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "refusal": "I cannot."}],
        [("prompt", "q"), ("step", "I cannot.")],
    ),
    "refusal as a part": (
        [{"role": "user", "content": "q"}, {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}],
        [("prompt", "q"), ("step", "No.")],
    ),
    "custom tool": (
        [
            {"role": "user", "content": "Run."},
            {
                "role": "assistant",
                "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "py", "input": "1"}}],
            },
            {"role": "tool", "tool_call_id": "c", "content": "1"},
        ],
        [("prompt", "Run."), ("step", ""), ("prompt", "1")],
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_chats_as_they_are_found_come_and_go(tmp_path: Path, name: str):
    chat, nodes = ODD[name]
    row = {"messages": chat, "functions": [{"name": "ls"}], "x": {"#step": 99}, "y": {"#step": [1]}}
    here = work_at(tmp_path / "here")
    bring_in(here, "messages", as_lines(tmp_path / "a.jsonl", row))
    assert not violations(here)
    assert not faults_in(here)
    assert table(here, "nodes").select("kind", "text").rows() == nodes
    assert json.loads(table(here, "tasks")["tools"][0]) == [{"type": "function", "function": {"name": "ls"}}]
    for format in ("messages", "atif", "sessions"):
        send_out(here, format, tmp_path / format)
        there = work_at(tmp_path / f"from {format}")
        bring_in(there, format, tmp_path / format)
        (file,) = send_out(there, "messages", tmp_path / f"{format} again")
        assert json.loads(file.read_text()) == row


def test_what_stands_before_the_question_leaves_too_and_calls_are_answered(tmp_path: Path):
    work = work_at(tmp_path)
    chat, _ = ODD["functions, as tools were called"]
    bring_in(
        work, "messages", as_lines(tmp_path / "a.jsonl", {"messages": [{"role": "developer", "content": "d"}, *chat]})
    )
    (file,) = send_out(work, "atif", tmp_path / "atif")
    (system, _, looked) = json.loads(file.read_text())["steps"]
    assert (system["source"], system["message"]) == ("system", "d")
    assert looked["observation"]["results"] == [{"source_call_id": "call_1_0", "content": "a.txt"}]
    (file,) = send_out(work, "sessions", tmp_path / "sessions")
    messages = [json.loads(line)["message"] for line in file.read_text().splitlines()[1:]]
    assert [(one["role"], one["content"]) for one in messages[:2]] == [("system", "d"), ("user", "List.")]
    assert messages[-1] == {"role": "tool", "content": "a.txt", "toolCallId": "call_1_0"}


@pytest.mark.parametrize("format", ["atif", "sessions"])
def test_records_of_a_part_of_a_tree_name_its_new_numbers(tmp_path: Path, format: str):
    rows = [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": said}]} for said in "ab"]
    here, there = work_at(tmp_path / "here"), work_at(tmp_path / "there")
    bring_in(here, "messages", as_lines(tmp_path / "a.jsonl", *rows))
    tree = table(here, "nodes")["tree"][0]
    write_exports(here.store, "foreign", "r0", ExportConfig(format, str(tmp_path / "out"), tree, 2))
    bring_in(there, format, tmp_path / "out")
    assert table(there, "nodes").select("node", "text").rows() == [(0, "q"), (1, "b")]
    (file,) = send_out(there, "messages", tmp_path / "again")
    assert json.loads(file.read_text()) == rows[1]
