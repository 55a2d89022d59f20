"""Sessions of a round: whose leaves, what they say, that the Hub's reader and our own import know them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from datasets import Features, Json, Value
from datasets.packaged_modules.json.json import has_agent_traces_markers, parse_traces_info
from exchange.imported import as_lines, bring_in, table, work_at
from huggingface_hub import DatasetCard
from scripted_round import Pupil, read, run, scripted

from pipeline.errors import BadConfig
from pipeline.exchange.document import Document
from pipeline.exchange.sessions import parse
from pipeline.publish.folder import Folder
from pipeline.publish.rebuild import check_rebuilt
from pipeline.stages.release import release_folder, write_release
from pipeline.stages.sessions import SessionConfig, write_sessions
from pipeline.stages.work import Work

CALL = {"id": "c", "function": {"name": "ls", "arguments": '{"path":"."}'}}
CHAT = {
    "messages": [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "List."},
        {"role": "assistant", "content": "I look.", "tool_calls": [{"type": "function", **CALL}]},
        {"role": "tool", "content": "a.txt", "tool_call_id": "c"},
        {"role": "assistant", "content": "a.txt"},
    ]
}


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Work:
    with scripted(tmp_path_factory.mktemp("round"), Pupil()) as made:
        run(made)
        write_sessions(made)
        yield made


def lines_of(trace: str) -> list[dict]:
    return [json.loads(line) for line in trace.splitlines()]


def test_the_first_leaf_of_every_reward(work: Work):
    rows, nodes = read(work, "sessions"), read(work, "nodes")
    leaves = nodes.join(nodes.select("tree", node="parent"), on=["tree", "node"], how="anti")
    judged = leaves.join(read(work, "verdicts").select("tree", "node", "reward"), on=["tree", "node"], how="left")
    first = judged.group_by("tree", "reward").agg(pl.col("node").min()).select("tree", "node", "reward")
    assert rows.select("tree", "node", "reward").sort("tree", "node").equals(first.sort("tree", "node"))
    assert {0.0, 1.0} <= set(rows["reward"])
    assert write_sessions(work).fresh == 0
    with pytest.raises(BadConfig, match="per_reward"):
        write_sessions(work, SessionConfig(per_reward=-1))


def test_a_session_is_its_path(work: Work):
    nodes = {(row["tree"], row["node"]): row for row in read(work, "nodes").iter_rows(named=True)}
    for row in read(work, "sessions").iter_rows(named=True):
        path = [nodes[row["tree"], row["node"]]]
        while path[0]["parent"] is not None:
            path.insert(0, nodes[row["tree"], path[0]["parent"]])
        spoken = [("user" if node["kind"] == "prompt" else "assistant", node["text"]) for node in path]
        head, *said = lines_of(row["trace"])
        assert (head["type"], head["id"], head["name"]) == ("session", f"{row['tree']}#{row['node']}", row["prompt"])
        assert [(line["message"]["role"], line["message"]["content"]) for line in said] == spoken
        assert (row["message_count"], row["call_count"]) == (len(said), 0)
        _, session, prompt, _, asked, _ = parse_traces_info(row["trace"].splitlines())
        assert (session, prompt) == (head["id"], row["prompt"]), "as the Hub's reader has it"
        assert asked == sum(role == "user" for role, _ in spoken)
        (document,) = parse(row["trace"].encode())
        assert isinstance(document, Document)
        assert (document.question, document.steps[-1].text) == (row["prompt"], path[-1]["text"])


def test_its_lines_are_what_the_hub_knows_sessions_by():
    assert has_agent_traces_markers(Features({"type": Value("string"), "message": Json()}))


def test_tools_and_what_came_before(tmp_path: Path):
    work = work_at(tmp_path)
    work = replace(work, settings=replace(work.settings, release=tmp_path / "release"))
    bring_in(work, "messages", as_lines(tmp_path / "a.jsonl", CHAT))
    write_sessions(work)
    (row,) = table(work, "sessions").iter_rows(named=True)
    _, *said = lines_of(row["trace"])
    assert [line["message"] for line in said] == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "List."},
        {"role": "assistant", "content": "I look.", "toolCalls": [CALL]},
        {"role": "tool", "content": "a.txt", "toolCallId": "c"},
        {"role": "assistant", "content": "a.txt"},
    ]
    assert (row["reward"], row["message_count"], row["call_count"]) == (None, 5, 1)
    write_release(work)
    found = {one.what: one for one in check_rebuilt(Folder(release_folder(work)))}["sessions from nodes"]
    assert (found.passed, found.detail) == (True, "1 rows as the nodes give them")


def test_released_checked_and_written_out(work: Work, tmp_path: Path, monkeypatch):
    """The card's own code gives files that are read as sessions."""
    write_release(work)
    folder = Folder(release_folder(work))
    found = {one.what: one for one in check_rebuilt(folder)}["sessions from nodes"]
    assert found.passed
    assert "as the nodes give them" in found.detail
    card = DatasetCard.load(folder.path / "README.md")
    assert "agent-traces" in card.data.tags
    (block,) = re.findall(r"```python\n(from pathlib.*?)```", card.text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(block, {"folder": str(folder.path)})
    rows = read(work, "sessions")
    assert sorted(path.read_text() for path in tmp_path.glob("*.jsonl")) == sorted(rows["trace"])
