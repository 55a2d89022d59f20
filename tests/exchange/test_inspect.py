"""What logs of Inspect bring into the store."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from exchange.imported import bring_in, faults_in, steps, table, violations, work_at
from exchange.records import CHAT


def test_inspect(tmp_path: Path):
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


def test_inspect_json(tmp_path: Path):
    log = {"samples": [{"messages": CHAT[1:2]}, {"messages": 3}]}
    (tmp_path / "a.json").write_text(json.dumps(log))
    work = work_at(tmp_path)
    bring_in(work, "inspect", tmp_path / "a.json")
    assert [row[4] for row in steps(work)] == ["List the files."]
    assert "sample 1" in violations(work)[0][2]


def test_inspect_of_older_versions(tmp_path: Path):
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
def test_inspect_branches(tmp_path: Path, pooled: bool):
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


def test_inspect_branches_are_not_told_without_end(tmp_path: Path, monkeypatch):
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
def test_inspect_branches_that_cannot_be_read(tmp_path: Path, event: dict, said: str):
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
