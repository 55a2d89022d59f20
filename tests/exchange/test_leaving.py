"""What imported chats say when they leave in another format than they came in: who spoke, and in which order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from exchange.imported import as_lines, bring_in, faults_in, send_out, table, violations, work_at
from polars.testing import assert_frame_equal

from pipeline.stages.sessions import write_sessions
from pipeline.stages.work import Work

LS = {"name": "ls", "arguments": "{}"}
CALL = {"id": "c", "type": "function", "function": LS}
SOURCES = {"system": "system", "developer": "system", "user": "user", "assistant": "agent"}


def lines_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def leaves_as(work: Work, folder: Path, *chats: list[dict]) -> None:
    """Check what paths say in each format, and that those which restore their tree do."""
    lines = [line for file in send_out(work, "messages", folder / "messages") for line in lines_of(file)]
    assert [line["messages"] for line in lines] == [*chats]
    for file, chat in zip(send_out(work, "sessions", folder / "sessions"), chats, strict=True):
        said = [line["message"] for line in lines_of(file) if line["type"] == "message"]
        assert [in_openai(message) for message in said] == [
            {**message, "role": "system" if message["role"] == "developer" else message["role"]} for message in chat
        ]
    for file, chat in zip(send_out(work, "atif", folder / "atif"), chats, strict=True):
        steps = json.loads(file.read_text())["steps"]
        spoken = [message for message in chat if message["role"] != "tool"]
        assert [(step["source"], step["message"]) for step in steps] == [
            (SOURCES[message["role"]], message["content"]) for message in spoken
        ]
        results = [one for step in steps for one in step.get("observation", {"results": ()})["results"]]
        assert [(one["content"], one["source_call_id"]) for one in results] == [
            (message["content"], message.get("tool_call_id")) for message in chat if message["role"] == "tool"
        ]
        assert [call["tool_call_id"] for step in steps for call in step.get("tool_calls", ())] == [
            call["id"] for message in chat for call in message.get("tool_calls", ())
        ]
    for format in ("sessions", "atif"):
        there = work_at(folder / f"from {format}")
        bring_in(there, format, folder / format)
        assert not violations(there)
        assert not faults_in(there)
        for name in ("tasks", "nodes", "scores", "requests"):
            assert_frame_equal(table(work, name), table(there, name))


def in_openai(message: dict) -> dict:
    """A message of a session."""
    calls, of = message.get("toolCalls"), message.get("toolCallId")
    said = {"role": message["role"], "content": message["content"]}
    if calls:
        said["tool_calls"] = [{"id": call["id"], "type": "function", "function": call["function"]} for call in calls]
    return said | ({"tool_call_id": of} if of else {})


def trace(*nodes: dict) -> dict:
    """A trace whose nodes follow one another."""
    return {
        "traces": [{"nodes": [{"parent": place - 1 if place else None, **node} for place, node in enumerate(nodes)]}]
    }


def asked(*token_ids: int) -> dict:
    return {"message": {"role": "user", "content": "q"}, "token_ids": token_ids}


def answered(text: str, mask: list[bool], **said: object) -> dict:
    message = {"role": "assistant", "content": text, **said}
    ids, logprobs = list(range(10, 10 + len(mask))), [-0.5] * sum(mask)
    return {"message": message, "sampled": True, "token_ids": ids, "mask": mask, "logprobs": logprobs}


USER, SYSTEM, ANSWER = ({"role": role, "content": role[0]} for role in ("user", "system", "assistant"))


@pytest.mark.parametrize("call", [{"tool_call_id": "c"}, {}], ids=["told", "not told"])
def test_tokens_of_a_template_are_no_messages(tmp_path: Path, call: dict):
    seen = {"message": {"role": "tool", "content": "a.txt", **call}, "token_ids": [7]}
    looked = answered("", [False, True, True, False], tool_calls=[{"id": "c", **LS}])
    work = work_at(tmp_path)
    bring_in(
        work,
        "traces",
        as_lines(tmp_path / "a.jsonl", trace(asked(1), looked, seen, answered("done", [False, True, False]))),
    )
    assert table(work, "nodes")["token_ids"].to_list() == [[1], [10], [11, 12], [13], [7], [10], [11], [12]]
    chat = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "a.txt", "tool_call_id": "c"},
        {"role": "assistant", "content": "done"},
    ]
    leaves_as(work, tmp_path, chat)
    write_sessions(work)
    (row,) = table(work, "sessions").iter_rows(named=True)
    _, *said = map(json.loads, row["trace"].splitlines())
    assert [in_openai(line["message"]) for line in said] == chat
    assert row["message_count"] == 4


def test_a_question_in_two_tokenisations_is_asked_once(tmp_path: Path):
    work = work_at(tmp_path)
    mask = [True, True]
    bring_in(
        work,
        "traces",
        as_lines(tmp_path / "a.jsonl", trace(asked(1), answered("a", mask)), trace(asked(2, 3), answered("b", mask))),
    )
    assert table(work, "nodes")["text"].to_list() == ["q", "a", "q", "b"]
    question = {"role": "user", "content": "q"}
    leaves_as(work, tmp_path, *([question, {"role": "assistant", "content": text}] for text in "ab"))


@pytest.mark.parametrize(
    ("chat", "question"),
    [
        pytest.param([USER, SYSTEM, ANSWER], "u", id="system after the question"),
        pytest.param([SYSTEM, USER, {**USER, "content": "v"}, SYSTEM, ANSWER], "v", id="two of the user"),
        pytest.param([{**SYSTEM, "role": "developer"}, USER, ANSWER], "u", id="developer"),
        pytest.param([SYSTEM, ANSWER], "", id="no question"),
        pytest.param([ANSWER, USER, {**ANSWER, "content": "b"}], "", id="an answer first"),
        pytest.param([USER, USER, ANSWER, USER, ANSWER], "u", id="the question again"),
        pytest.param(
            [USER, {**ANSWER, "tool_calls": [CALL]}, {"role": "tool", "content": ""}, ANSWER], "u", id="silent"
        ),
    ],
)
def test_messages_leave_in_their_order(tmp_path: Path, chat: list[dict], question: str):
    work = work_at(tmp_path)
    lines = [
        {
            "type": "message",
            "message": {"role": one["role"], "content": one["content"], "toolCalls": one.get("tool_calls")},
        }
        for one in chat
    ]
    bring_in(work, "sessions", as_lines(tmp_path / "a.jsonl", *lines))
    assert table(work, "tasks")["question"].to_list() == [question]
    leaves_as(work, tmp_path, [one | ({"tool_call_id": "c"} if one["role"] == "tool" else {}) for one in chat])


def test_a_demonstration_keeps_its_calls(tmp_path: Path):
    looked = {"role": "assistant", "content": "I look.", "tool_calls": [CALL]}
    history = [
        SYSTEM,
        {**looked, "is_demo": True},
        {"role": "tool", "content": "a.txt", "tool_call_ids": ["c"], "is_demo": True},
        USER,
        ANSWER,
    ]
    (tmp_path / "a.traj").write_text(json.dumps({"history": history}))
    work = work_at(tmp_path)
    bring_in(work, "swe_agent", tmp_path / "a.traj")
    seen = {"role": "tool", "content": "a.txt", "tool_call_id": "c"}
    assert json.loads(table(work, "tasks")["messages"][0]) == [SYSTEM, looked, seen]
    leaves_as(work, tmp_path, [SYSTEM, looked, seen, USER, ANSWER])


def test_a_custom_tool_is_called_as_a_function_of_its_input(tmp_path: Path):
    custom = {"id": "c", "type": "custom", "custom": {"name": "py", "input": "1 + 1"}}
    chat = [USER, {"role": "assistant", "content": "", "tool_calls": [custom]}]
    work, there = work_at(tmp_path), work_at(tmp_path / "there")
    file = as_lines(tmp_path / "a.jsonl", {"messages": chat})
    bring_in(work, "messages", file)
    call = {"id": "c", "type": "function", "function": {"name": "py", "arguments": '{"input":"1 + 1"}'}}
    assert json.loads(table(work, "nodes")["tool_calls"][1]) == [call]
    (session,) = send_out(work, "sessions", tmp_path / "sessions")
    lines = [{"type": line["type"], "message": line["message"]} for line in lines_of(session)[1:]]
    bring_in(there, "sessions", as_lines(tmp_path / "b.jsonl", *lines))
    leaves_as(there, tmp_path / "there", [USER, {"role": "assistant", "content": "", "tool_calls": [call]}])
    codex = [{"type": "message", "role": "user", "content": "u"}]
    codex.append({"type": "custom_tool_call", "name": "py", "input": "1 + 1", "call_id": "c"})
    items = ({"type": "response_item", "payload": item} for item in codex)
    elsewhere = work_at(tmp_path / "elsewhere")
    bring_in(elsewhere, "sessions", as_lines(tmp_path / "c.jsonl", *items))
    assert json.loads(table(elsewhere, "nodes")["tool_calls"][1]) == [call]


@pytest.mark.parametrize("format", ["messages", "atif", "prm800k"])
def test_what_looks_like_a_reference_stays_the_records_own(tmp_path: Path, format: str):
    own = {"a": {"#step": 0}, "b": {"#step": True}, "c": [{"#step": {"own": {"#step": -1}}}, {"#step": 9}]}
    row = {
        "messages": {"messages": [USER, {**ANSWER, "metadata": own}], "metadata": own},
        "atif": {
            "schema_version": "ATIF-v1.6",
            "agent": {"name": "a"},
            "steps": [{"source": "user", "message": "u"}, {"source": "agent", "message": "a", "extra": own}],
            "extra": own,
        },
        "prm800k": {
            "labeler": "x",
            "question": {"problem": "q", "of": own},
            "label": {"steps": [{"completions": [{"text": "a", "rating": 1}], "chosen_completion": 0}], "of": own},
        },
    }[format]
    work = work_at(tmp_path)
    bring_in(work, format, as_lines(tmp_path / "a.jsonl", row))
    (file,) = send_out(work, format, tmp_path / "out")
    back = json.loads(file.read_text())
    if format == "atif":
        del back["extra"]["branchpoint"]
    assert back == row


def test_a_session_without_its_first_line_is_refused(tmp_path: Path):
    here, there = work_at(tmp_path / "here"), work_at(tmp_path / "there")
    bring_in(here, "messages", as_lines(tmp_path / "a.jsonl", {"messages": [SYSTEM, USER, ANSWER]}))
    send_out(here, "sessions", tmp_path / "out")
    (file,) = (tmp_path / "out").iterdir()
    _, *lines = file.read_text().splitlines(keepends=True)
    (tmp_path / "out" / "broken.jsonl").write_text('{"type":"session", "bran\n' + "".join(lines))
    bring_in(there, "sessions", tmp_path / "out")
    first, whole = violations(there)
    assert first[:2] == ("broken.jsonl", 1)
    assert "first line is missing" in whole[2]
    assert_frame_equal(table(here, "nodes"), table(there, "nodes"))


def test_a_role_of_pi_is_none_of_openais(tmp_path: Path):
    chat = [USER, ANSWER, {"role": "toolResult", "content": "a"}]
    work, there = work_at(tmp_path), work_at(tmp_path / "there")
    bring_in(work, "messages", as_lines(tmp_path / "a.jsonl", {"messages": chat}, {"messages": [USER, ANSWER]}))
    ((_, line, why),) = violations(work)
    assert line == 1
    assert "toolResult" in why
    bring_in(there, "sessions", as_lines(tmp_path / "b.jsonl", *({"type": "message", "message": one} for one in chat)))
    (file,) = send_out(there, "messages", tmp_path / "out")
    assert json.loads(file.read_text())["messages"][-1] == {"role": "tool", "content": "a"}
