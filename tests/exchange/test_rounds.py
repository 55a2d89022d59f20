"""What a round holds after imports that go wrong, come again, or bring a tree twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from exchange.imported import as_lines, bring_in, faults_in, send_out, table, violations, work_at

from pipeline.errors import BadConfig, BadInput
from pipeline.stages import imports
from pipeline.stages.imports import ImportConfig
from pipeline.store.layout import EVERY_ROUND

REQUEST = {"request": "0" * 32, "policy": "p", "stage": "rollouts", "sample_index": 0, "prompt_tokens": 1}
REQUEST |= {"engine": "e", "sampling": "{}", "attempts": 1}


def chats(path: Path, *questions: str) -> Path:
    rows = ([{"role": "user", "content": said}, {"role": "assistant", "content": "a"}] for said in questions)
    return as_lines(path, *({"messages": row} for row in rows))


def changed(file: Path, change: Callable[[list[dict[str, Any]]], None]) -> Path:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    change(lines)
    return as_lines(file, *lines)


def exported(folder: Path, *questions: str) -> list[Path]:
    """Sessions of a store, one a question."""
    work = work_at(folder / "elsewhere")
    bring_in(work, "messages", chats(folder / "elsewhere.jsonl", *questions))
    return send_out(work, "sessions", folder / "sessions")


def of_node(value: dict[str, Any]) -> Callable[[list[dict[str, Any]]], None]:
    return lambda lines: lines[-1]["branchpoint"].update(value)


def of_task(value: dict[str, Any]) -> Callable[[list[dict[str, Any]]], None]:
    return lambda lines: lines[0]["branchpoint"]["task"].update(value)


def kept(record: str, format: str = "atif") -> Callable[[list[dict[str, Any]]], None]:
    text = f'[{{"file": "a", "line": 1, "format": "{format}", "nodes": [0, 1]{record}}}]'
    return of_node({"scores": [{"name": "source", "text": text}]})


def test_what_does_not_stand_replaces_nothing(tmp_path: Path):
    """It can be read, but is no path of a tree."""
    work = work_at(tmp_path)
    bring_in(work, "messages", chats(tmp_path / "a.jsonl", "q"))
    (file,) = exported(tmp_path, "other")
    changed(file, of_node({"depth": 7}))
    with pytest.raises(BadInput, match=r"nothing in it can be read as sessions; .* says why"):
        bring_in(work, "sessions", file, replace=True)
    assert table(work, "nodes")["text"].to_list() == ["q", "a"]
    assert "depth 7" in violations(work)[0][2]


def test_shards_before_the_first_that_stands_are_there_and_empty(tmp_path: Path):
    work = work_at(tmp_path)
    work = replace(work, suite=replace(work.suite, shard_tasks=1))
    first, *_ = sorted(
        exported(tmp_path, "q", "r", "s"), key=lambda file: json.loads(file.read_text().split("\n")[0])["id"]
    )
    changed(first, of_node({"depth": 7}))
    report = bring_in(work, "sessions", tmp_path / "sessions")
    assert (report.shards, report.numbers["documents"], report.numbers["steps"]) == (3, 2, 2)
    assert [work.store.rows("nodes", place) for place in work.places("nodes")] == [0, 2, 2]
    assert bring_in(work, "sessions", tmp_path / "sessions").fresh == 0
    assert not faults_in(work)


@pytest.mark.parametrize("other_size", [False, True])
def test_another_round_leaves_the_tasks_alone(tmp_path: Path, other_size: bool):
    work = work_at(tmp_path)
    work = replace(work, suite=replace(work.suite, shard_tasks=2))
    bring_in(work, "messages", chats(tmp_path / "a.jsonl", *"abcdef"))
    before = {place: work.store.digest("tasks", place) for place in work.store.places("tasks")}
    other = replace(work, round="r1", suite=replace(work.suite, shard_tasks=6 if other_size else 2))
    file = shutil.copy(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    if other_size:
        with pytest.raises(BadConfig, match="in other shards than shard_tasks = 6 makes"):
            bring_in(other, "messages", file)
    else:
        assert bring_in(other, "messages", file).shards == 3
    assert {place: work.store.digest("tasks", place) for place in work.store.places("tasks")} == before
    assert {place.round for place in before} == {EVERY_ROUND}
    assert not faults_in(work)


def test_tasks_of_which_another_round_has_trees_are_not_replaced(tmp_path: Path):
    work = work_at(tmp_path)
    file = chats(tmp_path / "a.jsonl", "q")
    bring_in(work, "messages", file)
    bring_in(replace(work, round="r1"), "messages", file)
    with pytest.raises(BadConfig, match="other tasks"):
        bring_in(work, "messages", chats(tmp_path / "b.jsonl", "other"), replace=True)
    assert bring_in(work, "messages", file, licence="MIT").fresh == 1
    assert not faults_in(work)


def test_a_file_and_its_own_export_in_one_folder(tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    trajectory = {"schema_version": "ATIF-v1.6", "agent": {"name": "x"}}
    trajectory["steps"] = [{"source": "user", "message": "q"}, {"source": "agent", "message": "a"}]
    (folder / "a.json").write_text(json.dumps(trajectory))
    here, there = work_at(tmp_path / "here"), work_at(tmp_path / "there")
    bring_in(here, "atif", folder)
    (file,) = send_out(here, "atif", tmp_path / "out")
    shutil.copy(file, folder / "b.json")
    report = bring_in(there, "atif", folder)
    assert table(there, "nodes").equals(table(here, "nodes"))
    assert violations(there) == [("a.json", 1, "its task is restored from an export")]
    assert report.numbers["documents"] == 1
    assert not faults_in(there)


@pytest.mark.parametrize("size", [1, 10])
def test_a_request_is_of_one_task(tmp_path: Path, size: int):
    for file in exported(tmp_path, "q", "r"):
        changed(file, of_node({"request": REQUEST["request"], "policy": "p", "requests": [REQUEST]}))
    work = work_at(tmp_path)
    work = replace(work, suite=replace(work.suite, shard_tasks=size))
    report = bring_in(work, "sessions", tmp_path / "sessions")
    assert (report.rows["requests"], report.rows["nodes"]) == (1, 2)
    assert ["is one of foreign/messages/train/" in why for *_, why in violations(work)] == [True]
    assert not faults_in(work)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        pytest.param(of_node({"request": "ab", "policy": "p"}), "request 'ab', which is not told", id="request"),
        pytest.param(of_node({"scores": [{"name": "source"}]}), "'source' has no text", id="source without a text"),
        pytest.param(kept(', "record": [1]'), "none of atif", id="record that is a list"),
        pytest.param(kept(', "record": {"#step": 0}'), "none of atif", id="record that is a text"),
        pytest.param(kept(', "record": {"extra": 3}'), "none of atif", id="extra that is a number"),
        pytest.param(kept(', "record": {}', "prm800k"), "none of prm800k", id="annotation without a question"),
        pytest.param(of_task({"messages": "no JSON"}), "malformed", id="messages that are no JSON"),
        pytest.param(of_task({"messages": '{"a": 1}'}), "array", id="messages that are no list"),
        pytest.param(of_task({"messages": '["x"]'}), "object", id="a message that is none"),
        pytest.param(of_task({"tools": "["}), "truncated", id="tools"),
    ],
)
def test_what_an_export_could_not_write_again_does_not_come_in(tmp_path: Path, change: Callable, why: str):
    bad, _ = exported(tmp_path, "q", "r")
    changed(bad, change)
    work = work_at(tmp_path)
    bring_in(work, "sessions", tmp_path / "sessions")
    assert len(table(work, "nodes")) == 2
    ((file, _, said),) = violations(work)
    assert file == bad.name
    assert why in said


def test_labels_of_an_earlier_version_go_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of the same files, but under another name."""
    (file,) = exported(tmp_path, "q")
    changed(file, of_node({"step_labels": [{"labeller": "a b", "version": "1", "hard": True}]}))
    work = work_at(tmp_path)
    with monkeypatch.context() as before:
        before.setattr(imports, "VERSION", "0")
        before.setattr(imports, "_stage", lambda labeller: labeller.replace(" ", "-"))
        bring_in(work, "sessions", file)
    (old,) = work.places("step_labels")
    bring_in(work, "sessions", file)
    assert old not in work.places("step_labels")
    assert table(work, "step_labels")["labeller"].to_list() == ["a b"]


def test_a_file_that_goes_away_meanwhile_is_told(tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "ab":
        chats(folder / f"{name}.jsonl", name)
    work = work_at(tmp_path)
    run = imports._Import(work, ImportConfig("messages", str(folder)))
    (folder / "a.jsonl").unlink()
    run.make()
    assert table(work, "nodes")["text"].to_list() == ["b", "a"]
    assert violations(work) == [("a.jsonl", 0, "No such file or directory")]
