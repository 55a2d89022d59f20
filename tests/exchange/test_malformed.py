"""What cannot be read is told with its file and line, and the rest comes in."""

from __future__ import annotations

import copy
import json
import os
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from exchange.imported import as_lines, bring_in, faults_in, table, violations, work_at

from pipeline.errors import BadInput
from pipeline.exchange import IMPORTERS, units
from pipeline.exchange.reading import lines
from pipeline.exchange.sorting import Spool

GOOD = json.dumps({"prompt": "q", "completions": ["a"], "labels": [True]}).encode()
LABEL = {"labeller": "human", "version": "1", "hard": True}
DEEP = b'{"prompt": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        pytest.param(GOOD[:-5], "truncated", id="truncated"),
        pytest.param(b"[1, 2]", "object", id="no object"),
        pytest.param(b'{"prompt": 3, "completions": [], "labels": []}', "$.prompt", id="wrong type"),
        pytest.param(b'{"prompt": "q", "completions": ["a"], "labels": []}', "0 labels", id="lengths differ"),
        pytest.param(b'{"prompt": "q", "completions": ["a"], "labels": [7]}', "$.labels[0]", id="no share"),
        pytest.param(GOOD.replace(b"q", b"\xff"), "UTF-8", id="no UTF-8"),
        pytest.param(GOOD.replace(b"q", rb"\ud800"), "", id="half a surrogate pair"),
        pytest.param(DEEP, "nested too deeply", id="deep"),
        pytest.param(b'{"prompt": NaN}', "$.prompt", id="NaN is null"),
        pytest.param(GOOD.replace(b"true", b"1e999"), "out of range", id="too large a number"),
        pytest.param(GOOD.replace(b"q", b"q\x00"), "invalid character", id="a bare NUL"),
        pytest.param(b"\x00" * 5000, "malformed", id="NULs alone"),
    ],
)
def test_a_bad_line_is_told_and_the_rest_comes_in(tmp_path: Path, line: bytes, why: str):
    (tmp_path / "a.jsonl").write_bytes(GOOD + b"\n\n" + line + b"\n" + GOOD.replace(b'"a"', b'"b"'))
    work = work_at(tmp_path)
    report = bring_in(work, "trl_stepwise", tmp_path / "a.jsonl")
    assert table(work, "nodes")["text"].to_list() == ["q", "a", "b"]
    ((file, number, said),) = violations(work)
    assert (file, number) == ("a.jsonl", 3)
    assert why in said
    assert report.numbers["violations"] == 1


def test_numbers_that_only_python_writes_are_unknown(tmp_path: Path):
    line = b'{"prompt": "Is it NaN?", "completions": ["a", "b"], "labels": [NaN, 1], "x": -Infinity}'
    (tmp_path / "a.jsonl").write_bytes(line)
    work = work_at(tmp_path)
    bring_in(work, "trl_stepwise", tmp_path / "a.jsonl")
    assert table(work, "nodes")["text"].to_list() == ["Is it NaN?", "a", "b"]
    assert table(work, "step_labels").select("node", "soft").rows() == [(2, 1.0)]


@pytest.mark.parametrize(
    ("text", "read", "fault"),
    [
        pytest.param(b"[%s, %s]", 2, None, id="whole"),
        pytest.param(b"[%s, %s,", 2, 3, id="broken off after an entry"),
        pytest.param(b'[%s, %s, {"prompt": "q', 2, 3, id="broken off in an entry"),
        pytest.param(b'[%s, {"prompt": "\xff"}, %s]', 2, 2, id="one is not UTF-8"),
        pytest.param(b'[{"prompt": NaN}, %s, %s]', 2, 1, id="NaN in one"),
    ],
)
def test_a_broken_list_gives_what_is_whole_in_it(tmp_path: Path, text: bytes, read: int, fault: int | None):
    entries = (GOOD[:-1] + b', "x": NaN}', GOOD.replace(b'"a"', b'"b"'))
    (tmp_path / "a.json").write_bytes(text % entries)
    work = work_at(tmp_path)
    bring_in(work, "trl_stepwise", tmp_path / "a.json")
    assert table(work, "nodes")["text"].to_list() == ["q", "a", "b"][: read + 1]
    assert [number for _, number, _ in violations(work)] == ([] if fault is None else [fault])


def test_nan_in_a_session_is_null(tmp_path: Path):
    said = b'{"type": "user", "message": {"role": "user", "content": "q"}, "cost": NaN}\n'
    (tmp_path / "a.jsonl").write_bytes(
        said + b'{"type": "assistant", "message": {"role": "assistant", "content": "a"}}'
    )
    work = work_at(tmp_path)
    bring_in(work, "sessions", tmp_path / "a.jsonl")
    assert table(work, "nodes")["text"].to_list() == ["q", "a"]
    assert not violations(work)


def test_a_bad_row_of_parquet_is_told_and_the_rest_comes_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    prompts = pa.array([b"q", b"\xff", b"q", b"q" * 1000], pa.binary()).cast(pa.string(), safe=False)
    table_ = pa.table({"prompt": prompts, "completions": [["a"], ["a"], ["b"], ["a"]], "labels": [[True]] * 4})
    pq.write_table(table_, tmp_path / "a.parquet")
    monkeypatch.setattr(units, "MOST_BYTES", 500)
    work = work_at(tmp_path)
    bring_in(work, "trl_stepwise", tmp_path / "a.parquet")
    assert table(work, "nodes")["text"].to_list() == ["q", "a", "b"]
    assert violations(work) == [("a.parquet", 2, "not UTF-8 at byte 0"), ("a.parquet", 4, "longer than 500 bytes")]


def test_a_line_that_is_too_long_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(units, "MOST_BYTES", 100)
    (tmp_path / "a.jsonl").write_bytes(b"1\n" + b"2" * 10_000_000 + b"\n3")
    found = [(unit.line, unit.data) for unit in lines(tmp_path / "a.jsonl")]
    assert found == [(1, b"1\n"), (2, None), (3, b"3")]


@pytest.mark.parametrize(
    ("format", "rows"),
    [
        pytest.param(
            "traces",
            [
                {
                    "traces": [
                        {
                            "nodes": [
                                {"parent": 1, "message": {"role": "user"}},
                                {"parent": 0, "message": {"role": "user"}},
                            ]
                        }
                    ]
                }
            ],
            id="traces",
        ),
        pytest.param(
            "sessions",
            [
                {"type": "user", "uuid": "a", "parentUuid": "b", "message": {"role": "user", "content": "x"}},
                {"type": "user", "uuid": "b", "parentUuid": "a", "message": {"role": "user", "content": "y"}},
                {"type": "user", "uuid": "c", "parentUuid": None, "message": {"role": "user", "content": "z"}},
            ],
            id="sessions",
        ),
    ],
)
def test_cyclic_parents(tmp_path: Path, format: str, rows: list):
    good = {"traces": [{"nodes": [{"message": {"role": "user", "content": "z"}}]}]}
    work = work_at(tmp_path)
    bring_in(work, format, as_lines(tmp_path / "a.jsonl", *rows, *([good] if format == "traces" else [])))
    assert table(work, "nodes")["text"].to_list() == ["z"]
    assert all("cycle" in why for _, _, why in violations(work))
    assert [line for _, line, _ in violations(work)] == ([1] if format == "traces" else [1, 2])


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"parent": 7}, id="no such parent"),
        pytest.param({"depth": 5}, id="depth"),
        pytest.param({"context": 3}, id="context"),
        pytest.param({"kind": "spell"}, id="unknown word"),
        pytest.param({"node": -1}, id="negative"),
        pytest.param({"sampled": True}, id="sampled without a request"),
        pytest.param({"token_ids": ["x"]}, id="wrong type"),
        pytest.param({"token_ids": 3}, id="no list"),
        pytest.param({"step_labels": [LABEL | {"created": 2**62}]}, id="a time after all times"),
        pytest.param({"scores": [{"name": "source", "text": "[3]"}]}, id="records that are none"),
    ],
)
def test_references_that_cannot_be(tmp_path: Path, change: dict):
    task = {
        "task": "s/b/train/0",
        "suite": "s",
        "band": "b",
        "split": "train",
        "question": "q",
        "answer": "",
        "verifier": "math",
    }
    of = {"task": "s/b/train/0", "tree": "s/b/train/0@r0", "episode": "s/b/train/0@r0", "turn": 0, "agent": "solver"}
    root = of | {
        "node": 0,
        "context": 0,
        "depth": 0,
        "kind": "prompt",
        "origin": "prompt",
        "sampled": False,
        "token_ids": [],
    }
    step = of | {"node": 1, "parent": 0, "context": 0, "depth": 1, "kind": "step", "origin": "sample", "sampled": False}
    step |= {"token_ids": [1]}

    def path(number: int, node: dict) -> dict:
        told = {"branchpoint": {"version": 1, "round": "r0", "task": task}}
        steps = [{"source": "user", "message": "q", "extra": {"branchpoint": root}}]
        steps.append({"source": "agent", "message": f"a{number}", "extra": {"branchpoint": node}})
        return {"schema_version": "ATIF-v1.6", "agent": {}, "steps": steps, "extra": told}

    file = as_lines(tmp_path / "a.jsonl", path(1, step), path(2, step | {"node": 2} | change))
    work = work_at(tmp_path)
    bring_in(work, "atif", file)
    assert table(work, "nodes")["text"].to_list() == ["q", "a1"]
    assert [line for _, line, _ in violations(work)] == [2]
    assert not faults_in(work)


@pytest.mark.parametrize("format", IMPORTERS)
@pytest.mark.parametrize("content", [b"", b"\x00\xff", b"{}", b"[]", b"null", DEEP, b'{"a": [{"b": 1}]}'])
def test_nothing_raises_but_a_refusal(tmp_path: Path, format: str, content: bytes):
    for ending in (".jsonl", ".json", ".eval", ".parquet", ".traj"):
        (tmp_path / f"a{ending}").write_bytes(content)
    work = work_at(tmp_path)
    with pytest.raises(BadInput, match="nothing in it"):
        bring_in(work, format, tmp_path)


def test_a_zip_that_lies_is_not_believed(tmp_path: Path):
    file = tmp_path / "a.eval"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("samples/bomb.json", b"[" * 50_000_000)
        archive.writestr("../samples/x.json", b"{}")
    data = bytearray(file.read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = (10).to_bytes(4, "little")
    file.write_bytes(data)
    work = work_at(tmp_path)
    with pytest.raises(BadInput, match="nothing in it"):
        bring_in(work, "inspect", file)
    assert len(violations(work)) == 1


def test_members_that_lie_over_one_another_end_an_archive(tmp_path: Path):
    """Each may be read; all of them would unpack the same bytes again and again."""
    file = tmp_path / "a.eval"
    sample = json.dumps({"messages": [{"role": "user", "content": "q" * 10_000}]})
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("samples/0.json", sample)
        for number in range(1, 100):
            again = copy.copy(archive.filelist[0])
            again.filename = f"samples/{number}.json"
            archive.filelist.append(again)
    work = work_at(tmp_path)
    report = bring_in(work, "inspect", file)
    assert len(table(work, "nodes")) == 1
    assert report.numbers["violations"] < 100
    assert "lie over one another" in violations(work)[-1][2]


def test_what_is_no_file_or_cannot_be_read_is_told_and_the_rest_comes_in(tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(GOOD)
    os.mkfifo(folder / "b.jsonl")
    (folder / "c.jsonl").symlink_to("/proc/self/mem")  # refuses to be read, also by root
    (folder / "d.jsonl").symlink_to("nowhere")
    (folder / os.fsdecode(b"\xff.jsonl")).write_bytes(GOOD[1:])
    work = work_at(tmp_path)
    bring_in(work, "trl_stepwise", folder)
    assert table(work, "nodes")["text"].to_list() == ["q", "a"]
    *others, (name, line, _) = violations(work)
    assert others == [
        ("b.jsonl", 0, "it is no file"),
        ("c.jsonl", 0, "Input/output error"),
        ("d.jsonl", 0, "No such file or directory"),
    ]
    assert (name, line) == ("\ufffd.jsonl", 1)
    for file, why in (("b", "it is no file"), ("c", "Input/output"), ("d", "No such file")):
        with pytest.raises(BadInput, match=rf"{file}\.jsonl cannot be read: {why}"):
            bring_in(work, "trl_stepwise", folder / f"{file}.jsonl")


def test_an_empty_file_is_said_to_be(tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes(b"\n")
    with pytest.raises(BadInput, match="it has no record at all"):
        bring_in(work_at(tmp_path), "messages", tmp_path / "a.jsonl")


def test_numbers_that_no_column_holds_do_not_stop_an_import(tmp_path: Path):
    """Arguments of a call may be any; Inspect's branches are told apart by them."""
    look = {"role": "assistant", "content": "", "tool_calls": [{"function": "ls", "arguments": {"n": 2**70}}]}
    chat = [{"role": "user", "content": "q"}, look]
    output = {"choices": [{"message": look}]}
    branch = {"event": "branch", "span_id": "b", "from_anchor": "a"}
    sample = {"messages": chat, "events": [branch, {"event": "model", "span_id": "b", "output": output}]}
    (tmp_path / "a.json").write_text(json.dumps({"samples": [sample | {"id": 1}]}))
    work = work_at(tmp_path)
    bring_in(work, "inspect", tmp_path / "a.json")
    assert str(2**70) in table(work, "nodes")["tool_calls"][1]


def test_a_spool_sorts_more_than_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.exchange.sorting._HELD_BYTES", 1000)
    spool, added = Spool(tmp_path), [(f"k{number % 7}", str(number).encode()) for number in range(200)]
    for key, data in added:
        spool.add(key, data)
    assert list(spool.read()) == sorted(added, key=lambda item: item[0])
    assert len(list(tmp_path.iterdir())) > 1
