"""What chats bring into the store, and the licences of all formats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from exchange.imported import as_lines, bring_in, faults_in, send_out, steps, table, violations, work_at
from exchange.records import CHAT, PREFERENCE, TRACE, shepherd

CLAUDE = [
    {"type": "summary", "summary": "Files"},
    {"type": "user", "uuid": "a", "parentUuid": None, "message": {"role": "user", "content": "List the files."}},
    {
        "type": "assistant",
        "uuid": "b",
        "parentUuid": "a",
        "message": {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "ls", "input": {}}]},
    },
    {
        "type": "user",
        "uuid": "c",
        "parentUuid": "b",
        "message": {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "a.txt"}]},
    },
    {
        "type": "assistant",
        "uuid": "d",
        "parentUuid": "c",
        "message": {"role": "assistant", "content": [{"type": "text", "text": "One."}]},
    },
    {"type": "assistant", "uuid": "e", "parentUuid": "c", "message": {"role": "assistant", "content": "Another."}},
]
CODEX = [
    {"type": "session_meta", "payload": {"id": "s"}},
    {
        "type": "response_item",
        "payload": {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
    },
    {"type": "response_item", "payload": {"type": "function_call", "name": "ls", "arguments": "{}", "call_id": "c"}},
    {"type": "response_item", "payload": {"type": "function_call_output", "call_id": "c", "output": "a"}},
    {"type": "compacted", "payload": {"message": "short"}},
    {
        "type": "response_item",
        "payload": {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Bye"}]},
    },
]
PI = [
    {"type": "session", "version": 3, "id": "s", "cwd": "/x"},
    {"type": "message", "id": "1", "parentId": None, "message": {"role": "user", "content": "Hi"}},
    {
        "type": "message",
        "id": "2",
        "parentId": "1",
        "message": {"role": "assistant", "content": [{"type": "toolCall", "id": "c", "name": "ls", "arguments": {}}]},
    },
    {
        "type": "message",
        "id": "3",
        "parentId": "2",
        "message": {"role": "toolResult", "content": [{"type": "text", "text": "a"}]},
    },
]

LICENSED = {
    "messages": {"messages": CHAT, "metadata": {"license": "MIT"}},
    "traces": {**TRACE, "task": {"data": {"license": "MIT"}}},
    "trl_stepwise": {"prompt": "q", "completions": ["a"], "labels": [True], "license": "MIT"},
    "trl_preference": {**PREFERENCE, "licence": "MIT"},
    "math_shepherd": {**shepherd("+", "-"), "license": "MIT"},
    "processbench": {"problem": "q", "steps": ["a"], "label": -1, "license": "MIT"},
    "prm800k": {"question": {"problem": "q", "license": "MIT"}, "label": {"steps": []}},
    "atif": {"schema_version": "ATIF-v1.6", "agent": {}, "steps": [{"source": "user"}], "extra": {"license": "MIT"}},
    "sessions": {"type": "message", "message": {"role": "user", "content": "q"}},
}


@pytest.mark.parametrize("format", LICENSED)
def test_a_record_keeps_its_licence(tmp_path: Path, format: str):
    head = [{"type": "session", "id": "s", "license": "MIT"}] if format == "sessions" else []
    work = work_at(tmp_path)
    bring_in(work, format, as_lines(tmp_path / "a.jsonl", *head, LICENSED[format]), licence="CC0-1.0")
    assert {json.loads(info)["source"]["licence"] for info in table(work, "tasks")["info"]} == {"MIT"}
    said = [record for text in table(work, "scores")["text"] for record in json.loads(text)]
    assert {record["licence"] for record in said} == {"MIT"}


def test_messages_come_and_go(tmp_path: Path):
    row = {"messages": CHAT, "tools": [{"type": "function", "function": {"name": "ls"}}], "license": "MIT"}
    work = work_at(tmp_path)
    bring_in(work, "messages", as_lines(tmp_path / "a.jsonl", row), licence="CC0-1.0")
    nodes = table(work, "nodes")
    assert nodes["kind"].to_list() == ["prompt", "step", "prompt", "step"]
    assert nodes["turn"].to_list() == [0, 0, 1, 1]
    assert json.loads(nodes["tool_calls"][1])[0]["function"]["arguments"] == '{"path": "."}'
    task = table(work, "tasks").row(0, named=True)
    assert json.loads(task["messages"]) == [{"role": "system", "content": "Be short."}]
    source = {"file": "a.jsonl", "line": 1, "format": "messages", "licence": "MIT"}
    assert json.loads(task["info"])["source"] == source
    (file,) = send_out(work, "messages", tmp_path / "out")
    assert [json.loads(line) for line in file.read_text().splitlines()] == [row]
    assert not faults_in(work)


def test_token_ids_only_where_the_source_has_them(tmp_path: Path):
    work = work_at(tmp_path)
    bring_in(work, "traces", as_lines(tmp_path / "traces.jsonl", TRACE))
    nodes = table(work, "nodes")
    assert nodes["token_ids"].to_list() == [[1, 2, 3], [4], [5, 6], [7]]
    assert nodes["sampled"].to_list() == [False, False, True, True]
    assert nodes["finish"].to_list() == [None, None, "stop", "length"]
    assert nodes["logprobs"].to_list() == [None, None, [-0.5, -0.25], [-1.5]]
    assert table(work, "verdicts").select("node", "reward").rows() == [(3, 0.5)]
    assert table(work, "tasks")["answer"].to_list() == ["yes"]
    assert not faults_in(work), "the ledger has what was sampled"


def test_swe_agent_demonstrations_are_a_history_alone(tmp_path: Path):
    history = [
        {"role": "system", "content": "Be short.", "agent": "main", "message_type": "system_prompt"},
        {"role": "user", "content": "Fix it.", "agent": "main", "message_type": "observation"},
        {"role": "assistant", "thought": "t", "action": "ls", "tool_calls": CHAT[2]["tool_calls"], "content": "t"},
        {"role": "tool", "content": "a.txt", "message_type": "observation", "tool_call_ids": ["c1"]},
    ]
    (tmp_path / "a.traj").write_text(json.dumps({"history": history}))
    work = work_at(tmp_path)
    bring_in(work, "swe_agent", tmp_path / "a.traj")
    assert [row[4] for row in steps(work)] == ["Fix it.", "t", "a.txt"]
    assert not violations(work)


def test_swe_agent_demonstrations_in_a_history_are_shown_not_written(tmp_path: Path):
    shown = [
        {"role": "user", "content": "Try.", "is_demo": True},
        {"role": "assistant", "content": "tried", "is_demo": True},
    ]
    history = [{"role": "system", "content": "Be short."}, *shown, {"role": "user", "content": "Fix it."}]
    history += [*shown, {"role": "assistant", "content": "fixed"}]
    (tmp_path / "a.traj").write_text(json.dumps({"history": history}))
    work = work_at(tmp_path)
    bring_in(work, "swe_agent", tmp_path / "a.traj")
    (task,) = table(work, "tasks").to_dicts()
    assert task["question"] == "Fix it."
    assert [one["content"] for one in json.loads(task["messages"])] == ["Be short.", "Try.", "tried"]
    kinds = table(work, "nodes").select("text", "kind").rows()
    assert kinds == [("Fix it.", "prompt"), ("Try.", "prompt"), ("tried", "prompt"), ("fixed", "step")]


def test_swe_agent_without_a_history_has_a_gap(tmp_path: Path):
    (tmp_path / "a.traj").write_text(json.dumps({"trajectory": [{"response": "ls", "observation": "a.txt"}]}))
    work = work_at(tmp_path)
    bring_in(work, "swe_agent", tmp_path / "a.traj")
    nodes = table(work, "nodes")
    assert nodes["origin"].to_list() == ["gap", "gap", "sample", "prompt"]
    assert nodes["context"].to_list() == [0, 1, 1, 1], "no context reaches over a gap"
    assert not faults_in(work)


@pytest.mark.parametrize(
    ("lines", "texts", "parents"),
    [
        pytest.param(
            CLAUDE, ["List the files.", "", "a.txt", "One.", "Another."], [None, 0, 1, 2, 2], id="Claude Code"
        ),
        pytest.param(CODEX, ["Hi", "", "a", "what came before was compacted", "Bye"], [None, 0, 1, 2, 3], id="Codex"),
        pytest.param(PI, ["Hi", "", "a"], [None, 0, 1], id="Pi"),
    ],
)
def test_sessions(tmp_path: Path, lines: list, texts: list, parents: list):
    work = work_at(tmp_path)
    bring_in(work, "sessions", as_lines(tmp_path / "a.jsonl", *lines))
    nodes = table(work, "nodes")
    assert nodes["text"].to_list() == texts
    assert nodes["parent"].to_list() == parents
    assert not violations(work)
    assert not faults_in(work)
