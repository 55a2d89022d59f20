"""What each format brings into the store."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from exchange.imported import as_lines, bring_in, faults_in, send_out, table, violations, work_at

MARK = "ки"
SHEPHERD = "2 + 2? Step 1: It is 2 + 2. {}\nStep 2: So - of course - 4. {}"
PREFERENCE = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5", "origin": "x"}
CHAT = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "List the files."},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "ls", "arguments": '{"path": "."}'}}],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "a.txt"},
    {"role": "assistant", "content": "One file: a.txt."},
]
NODES = [
    {"parent": None, "message": {"role": "system", "content": "s"}, "sampled": False, "token_ids": [1, 2]},
    {"parent": 0, "message": {"role": "user", "content": "q"}, "sampled": False, "token_ids": [3]},
    {
        "parent": 1,
        "message": {"role": "assistant", "content": "yes"},
        "sampled": True,
        "token_ids": [4, 5, 6],
        "mask": [False, True, True],
        "logprobs": [-0.5, -0.25],
    },
    {
        "parent": 1,
        "message": {"role": "assistant", "content": "no"},
        "sampled": True,
        "token_ids": [4, 7],
        "mask": [False, True],
        "logprobs": [-1.5],
    },
]
TRACE = {
    "id": "e1",
    "task": {"type": "t", "data": {"answer": "yes"}},
    "ok": True,
    "traces": [
        {
            "id": "t1",
            "nodes": NODES,
            "calls": [{"node": 2, "model": "m", "finish_reason": "stop"}, {"node": 3, "finish_reason": "length"}],
            "rewards": {"right": {"score": 0.5, "weight": 1.0}, "unknown": None},
        }
    ],
}
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


def shepherd(*marks: str) -> dict[str, str]:
    return {"input": SHEPHERD.format(MARK, MARK), "label": SHEPHERD.format(*marks), "task": "GSM8K"}


def steps(work) -> list[tuple]:
    nodes = table(work, "nodes")
    return list(nodes.select("node", "parent", "kind", "origin", "text").iter_rows())


class TestLabelled:
    def test_math_shepherd(self, tmp_path: Path):
        work = work_at(tmp_path)
        report = bring_in(work, "math_shepherd", as_lines(tmp_path / "a.jsonl", shepherd("+", "-")))
        assert steps(work) == [
            (0, None, "prompt", "prompt", "2 + 2?"),
            (1, 0, "step", "sample", "Step 1: It is 2 + 2."),
            (2, 1, "step", "sample", "Step 2: So - of course - 4."),
        ]
        labels = table(work, "step_labels").select("node", "labeller", "hard").rows()
        assert labels == [(1, "math_shepherd", True), (2, "math_shepherd", False)]
        assert report.numbers["violations"] == 0
        assert not faults_in(work)

    def test_solutions_of_one_question_share_their_beginning(self, tmp_path: Path):
        other = {name: text.replace("course - 4", "course - 5") for name, text in shepherd("+", "+").items()}
        work = work_at(tmp_path)
        report = bring_in(work, "math_shepherd", as_lines(tmp_path / "a.jsonl", shepherd("-", "-"), other))
        assert [row[:2] for row in steps(work)] == [(0, None), (1, 0), (2, 1), (3, 1)]
        assert report.numbers["conflicts"] == 1, "the shared step is labelled twice, and differently"
        assert table(work, "step_labels")["hard"].to_list() == [False, False, True]

    def test_processbench_says_nothing_after_the_first_error(self, tmp_path: Path):
        row = {"id": "gsm8k-0", "generator": "m", "problem": "q", "steps": ["a", "b", "c"], "label": 1}
        work = work_at(tmp_path)
        bring_in(work, "processbench", as_lines(tmp_path / "a.jsonl", row | {"final_answer_correct": False}))
        labels = table(work, "step_labels").select("node", "labeller", "hard").rows()
        assert labels == [(1, "human", True), (2, "human", False)]
        assert table(work, "verdicts").select("node", "reward").rows() == [(3, 0.0)]

    def test_trl_stepwise(self, tmp_path: Path):
        rows = (
            {"prompt": "q", "completions": ["a", "b"], "labels": [True, False]},
            {"prompt": "q", "completions": ["c"], "labels": [0.25]},
        )
        work = work_at(tmp_path)
        bring_in(work, "trl_stepwise", as_lines(tmp_path / "a.jsonl", *rows))
        labels = table(work, "step_labels").select("node", "hard", "soft").rows()
        assert labels == [(1, True, None), (2, False, None), (3, None, 0.25)]

    @pytest.mark.parametrize(
        "row",
        [
            pytest.param(PREFERENCE, id="texts"),
            pytest.param(
                {
                    "chosen": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}],
                    "rejected": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "5"}],
                },
                id="chats with the prompt inside",
            ),
        ],
    )
    def test_trl_preference(self, tmp_path: Path, row: dict):
        work = work_at(tmp_path)
        bring_in(work, "trl_preference", as_lines(tmp_path / "a.jsonl", row))
        verdicts = dict(table(work, "verdicts").select("node", "reward").iter_rows())
        assert {text: verdicts[node] for node, _, kind, _, text in steps(work) if kind == "step"} == {
            "4": 1.0,
            "5": 0.0,
        }


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


class TestChats:
    def test_messages_come_and_go(self, tmp_path: Path):
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

    def test_token_ids_only_where_the_source_has_them(self, tmp_path: Path):
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

    def test_inspect(self, tmp_path: Path):
        sample = {
            "id": 1,
            "epoch": 1,
            "target": "a.txt",
            "messages": [
                {"role": "user", "content": "List."},
                {"role": "assistant", "content": [{"type": "text", "text": "attachment://h"}]},
            ],
            "attachments": {"h": "long text"},
            "scores": {"match": {"value": "C"}},
        }
        with zipfile.ZipFile(tmp_path / "a.eval", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("header.json", "{}")
            archive.writestr("samples/1_epoch_1.json", json.dumps(sample))
            archive.writestr("samples/2_epoch_1.json", "0" * 30_000_000)
        work = work_at(tmp_path)
        bring_in(work, "inspect", tmp_path / "a.eval")
        assert [row[4] for row in steps(work)] == ["List.", "long text"]
        assert table(work, "verdicts")["reward"].to_list() == [1.0]
        ((_, line, why),) = violations(work)
        assert line == 3
        assert "unpacks to more than" in why

    def test_inspect_json(self, tmp_path: Path):
        log = {"samples": [{"messages": CHAT[1:2]}, {"messages": 3}]}
        (tmp_path / "a.json").write_text(json.dumps(log))
        work = work_at(tmp_path)
        bring_in(work, "inspect", tmp_path / "a.json")
        assert [row[4] for row in steps(work)] == ["List the files."]
        assert "sample 1" in violations(work)[0][2]

    def test_inspect_of_older_versions(self, tmp_path: Path):
        """A transcript in place of events, scores that are no number, tools that failed without a word."""
        failed = {"role": "tool", "content": "", "tool_call_id": "c", "error": {"type": "timeout", "message": "late"}}
        sample = {
            "id": 1,
            "messages": [CHAT[1], failed, CHAT[4]],
            "target": ["a", "b"],
            "scores": {"match": {"value": float("nan")}, "other": {"value": "I", "answer": "No"}},
            "metadata": {"license": "MIT"},
            "transcript": {"events": [{"event": "model", "input": []}], "content": {"d": "long"}},
        }
        (tmp_path / "a.json").write_text(json.dumps({"version": 2, "samples": [sample]}))
        work = work_at(tmp_path)
        bring_in(work, "inspect", tmp_path / "a.json")
        assert [row[4] for row in steps(work)] == ["List the files.", "late", "One file: a.txt."]
        verdict = table(work, "verdicts").row(0, named=True)
        assert (verdict["reward"], json.loads(verdict["components"])) == (0.0, {"match": None, "other": 0.0})
        assert "transcript" not in table(work, "scores")["text"][0]
        assert not violations(work)

    @pytest.mark.parametrize("pooled", [False, True])
    def test_inspect_branches(self, tmp_path: Path, pooled: bool):
        """Replayed up to an anchor, then on their own; one within another; one of another prompt; an empty one."""
        system, asked = {"role": "system", "content": "Be short."}, {"role": "user", "content": "List."}
        look, seen, done = (
            {"role": "assistant", "content": "I look.", "tool_calls": [{"id": "c", "function": "ls"}]},
            {"role": "tool", "content": "a.txt", "tool_call_id": "c"},
            {"role": "assistant", "content": "a.txt"},
        )
        again, told, other = (
            {"role": who, "content": said}
            for who, said in (("assistant", "I look twice."), ("user", "Summary: looked."), ("assistant", "Nothing."))
        )
        pool = [system, asked, look, seen, told]

        def call(span: str, told: list[dict], answer: dict) -> dict:
            refs = {"input": [], "input_refs": [[pool.index(one), pool.index(one) + 1] for one in told]}
            output = {"choices": [{"message": answer, "stop_reason": "stop"}]}
            return {"event": "model", "span_id": span, "output": output, **(refs if pooled else {"input": told})}

        def begin(span: str, above: str | None) -> list[dict]:
            return [
                {"event": "span_begin", "id": span, "parent_id": above, "type": "branch", "span_id": above},
                {"event": "branch", "span_id": span, "from_anchor": f"at {span}"},
            ]

        events = [
            call("main", [system, asked], look),
            {"event": "anchor", "anchor_id": "at b", "span_id": "main"},
            call("main", [system, asked, look, seen], done),
            *begin("b", "main"),
            call("b", [system, asked], look),
            {"event": "span_begin", "id": "inner", "parent_id": "b", "type": "agent"},
            call("inner", [system, asked, look, seen], again),
            *begin("c", "inner"),
            call("c", [system, asked, told], other),
            *begin("d", "main"),
            call("d", [asked], other),
            *begin("e", "main"),
        ]
        sample = {"id": 7, "epoch": 1, "target": "a.txt", "messages": [system, asked, look, seen, done]}
        sample |= {
            "events": events,
            "events_data": {"messages": pool, "calls": []},
            "scores": {"match": {"value": "C"}},
        }
        (tmp_path / "a.json").write_text(json.dumps({"version": 2, "samples": [sample]}))
        work = work_at(tmp_path)
        bring_in(work, "inspect", tmp_path / "a.json")
        assert steps(work) == [
            (0, None, "prompt", "prompt", "List."),
            (1, 0, "step", "sample", "I look."),
            (2, 1, "prompt", "prompt", "a.txt"),
            (3, 2, "step", "sample", "a.txt"),
            (4, 2, "step", "sample", "I look twice."),
            (5, 0, "prompt", "gap", "on this branch the log has other messages before"),
            (6, 5, "prompt", "prompt", "Summary: looked."),
            (7, 6, "step", "sample", "Nothing."),
        ]
        assert table(work, "verdicts").select("node", "reward").rows() == [(3, 1.0)], "branches were not scored"
        assert [why for *_, why in violations(work)] == [
            "sample 7, branch from at d: a model was asked something else than the sample is about",
            "sample 7, branch from at e: no model call is in it",
        ]
        assert not faults_in(work)

    def test_inspect_branches_are_not_told_without_end(self, tmp_path: Path, monkeypatch):
        monkeypatch.setattr("pipeline.exchange.inspect_branches.MOST_MESSAGES", 10)
        events = [{"event": "branch", "span_id": "b", "from_anchor": "a"}]
        events.append({"event": "model", "span_id": "b", "input_refs": [[0, 1]] * 11})
        sample = {"id": 1, "messages": [CHAT[1], CHAT[4]], "events": events, "events_data": {"messages": [CHAT[1]]}}
        (tmp_path / "a.json").write_text(json.dumps({"samples": [sample]}))
        work = work_at(tmp_path)
        bring_in(work, "inspect", tmp_path / "a.json")
        assert len(steps(work)) == 2
        assert "its branches have more than" in violations(work)[0][2]

    @pytest.mark.parametrize(
        ("event", "said"),
        [
            ({"input_refs": [[0, 10**12]]}, "refers to messages [0, 1000000000000] of the log, which are not there"),
            ({"input_refs": [[-1, True]]}, "which are not there"),
            ({"input": [{"role": 3}]}, "branch from a: "),
            ({"input": "List.", "output": []}, "no model call is in it"),
        ],
    )
    def test_inspect_branches_that_cannot_be_read(self, tmp_path: Path, event: dict, said: str):
        """The sample comes in without them; spans that are around each other end the search."""
        spans = [{"event": "span_begin", "id": one, "parent_id": other} for one, other in (("x", "y"), ("y", "x"))]
        events = [*spans, {"event": "branch", "span_id": "b", "from_anchor": "a"}]
        events += [{"event": "model", "span_id": "x"}, {"event": "model", "span_id": "b", **event}]
        sample = {"id": 1, "messages": [CHAT[1], CHAT[4]], "events": events, "events_data": {"messages": [CHAT[1]]}}
        (tmp_path / "a.json").write_text(json.dumps({"samples": [sample]}))
        work = work_at(tmp_path)
        bring_in(work, "inspect", tmp_path / "a.json")
        assert len(steps(work)) == 2
        assert [said in why for *_, why in violations(work)] == [True]

    def test_swe_agent_demonstrations_are_a_history_alone(self, tmp_path: Path):
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

    def test_swe_agent_demonstrations_in_a_history_are_shown_not_written(self, tmp_path: Path):
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

    def test_swe_agent_without_a_history_has_a_gap(self, tmp_path: Path):
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
            pytest.param(
                CODEX, ["Hi", "", "a", "what came before was compacted", "Bye"], [None, 0, 1, 2, 3], id="Codex"
            ),
            pytest.param(PI, ["Hi", "", "a"], [None, 0, 1], id="Pi"),
        ],
    )
    def test_sessions(self, tmp_path: Path, lines: list, texts: list, parents: list):
        work = work_at(tmp_path)
        bring_in(work, "sessions", as_lines(tmp_path / "a.jsonl", *lines))
        nodes = table(work, "nodes")
        assert nodes["text"].to_list() == texts
        assert nodes["parent"].to_list() == parents
        assert not violations(work)
        assert not faults_in(work)
