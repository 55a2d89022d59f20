"""Files are taken apart a record at a time, whatever their size and types."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from exchange.imported import as_lines, bring_in, table, violations, work_at
from hypothesis import given
from hypothesis import strategies as st

from pipeline.exchange import json_list, units
from pipeline.exchange.reading import rows

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(['"', "\\", '\\"', "[,]", "}"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
)


def read(path: Path) -> list[tuple[int, bytes | str]]:
    return [(unit.line, unit.why if unit.data is None else unit.data) for unit in rows(path)]


@given(values=st.lists(ANYTHING, max_size=5), indent=st.sampled_from([None, 1]), piece=st.integers(1, 9))
def test_a_list_is_split_wherever_its_pieces_end(tmp_path_factory, values: list, indent: int | None, piece: int):
    path = tmp_path_factory.mktemp("list") / "a.json"
    path.write_text("\n" + json.dumps(values, indent=indent, ensure_ascii=False) + "\n")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(json_list, "PIECE", piece + 2)
        assert [json.loads(data) for _, data in read(path)] == values


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param(b"[]", [], id="empty"),
        pytest.param(b"\xef\xbb\xbf [1, 2]\n", [(1, b"1"), (2, b"2")], id="mark"),
        pytest.param(b"[1,,2]", [(1, b"1"), (2, "an entry is missing"), (3, b"2")], id="no entry"),
        pytest.param(b"[{}{},1]", [(1, b"{}{}"), (2, b"1")], id="no comma: no JSON, as its parser says"),
        pytest.param(b'["\\x",1]', [(1, b'"\\x"'), (2, b"1")], id="a bad string is its entry's alone"),
        pytest.param(b"[{]},1]", [(1, b"{]}"), (2, b"1")], id="brackets that do not match"),
        pytest.param(b"[1]]", [(1, b"1"), (2, "something follows the list")], id="goes on"),
        pytest.param(b"[1", [(1, b"1"), (2, "the list breaks off")], id="breaks off after an entry"),
        pytest.param(b"[1, [2", [(1, b"1"), (2, "the list breaks off")], id="breaks off in an entry"),
        pytest.param(b'[1, "\\', [(1, b"1"), (2, "the list breaks off")], id="breaks off in an escape"),
        pytest.param(b"[", [(1, "the list breaks off")], id="no more than a bracket"),
    ],
)
def test_lists(tmp_path: Path, text: bytes, found: list):
    (tmp_path / "a.json").write_bytes(text)
    assert read(tmp_path / "a.json") == found


def test_an_entry_that_is_too_long_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(units, "MOST_BYTES", 100)
    (tmp_path / "a.json").write_bytes(b'[1, "' + b"2" * 5_000_000 + b'", 3' + b", 4" * 100 + b"]")
    found = read(tmp_path / "a.json")
    assert found[:3] == [(1, b"1"), (2, "longer than 100 bytes"), (3, b"3")]
    assert len(found) == 103


PLAIN = {
    "nanoseconds": (pa.array([1], pa.timestamp("ns")), "1970-01-01 00:00:00.000000001"),
    "a duration": (pa.array([7], pa.duration("ns")), "7"),
    "a time after all times": (pa.array([2**62], pa.timestamp("us")), f"<value out of range: {2**62}>"),
    "a day after all days": (pa.array([2**30], pa.date32()), f"<value out of range: {2**30}>"),
    "an unknown zone": (pa.array([1], pa.timestamp("us", "Mars/Base")), "1970-01-01 00:00:00.000001Z"),
    "within others": (
        pa.array(
            [[{"at": [1], "of": "x"}]], pa.list_(pa.struct({"at": pa.list_(pa.timestamp("us")), "of": pa.string()}))
        ),
        [{"at": ["1970-01-01 00:00:00.000001"], "of": "x"}],
    ),
    "in a map": (
        pa.array([[("k", 1)]], pa.map_(pa.string(), pa.timestamp("ms", "UTC"))),
        [["k", "1970-01-01 00:00:00.001Z"]],
    ),
    "bytes": (pa.array([b"\xff"]), "/w=="),
    "half a number": (pa.array([1.5], pa.float16()), 1.5),
    "a dictionary": (pa.array(["x"]).dictionary_encode(), "x"),
    "of one length": (pa.array([["x", "y"]], pa.list_(pa.string(), 2)), ["x", "y"]),
}


@pytest.mark.parametrize("name", PLAIN)
def test_any_column_of_parquet_is_json(tmp_path: Path, name: str):
    values, said = PLAIN[name]
    pq.write_table(pa.table({"x": values}), tmp_path / "a.parquet")
    ((_, data),) = read(tmp_path / "a.parquet")
    assert json.loads(data)["x"] == said


def test_rows_that_a_dictionary_makes_large_are_read_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a file that is small."""
    values = pa.DictionaryArray.from_arrays(pa.array([0] * 500, pa.int32()), pa.array(["x" * 10_000]))
    pq.write_table(pa.table({"x": values.cast(pa.string())}), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 20_000
    monkeypatch.setattr("pipeline.exchange.parquet_rows._WORST_BYTES", 100_000)
    seen, slices = [], pq.ParquetFile.iter_batches

    def watched(file, size, **of):
        seen.append(size)
        return slices(file, size, **of)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    assert len(read(tmp_path / "a.parquet")) == 500
    assert 0 < max(seen) < 10


@pytest.mark.parametrize(
    ("format", "rows", "why"),
    [
        pytest.param(
            "trl_preference",
            [{"prompt": [], "chosen": [{"role": "assistant", "content": "a"}], "rejected": []}],
            "an answer without messages",
            id="no message in an answer",
        ),
        pytest.param(
            "atif",
            [{"schema_version": "ATIF-v1.6", "agent": {}, "steps": [], "subagent_trajectories": 3}],
            "subagent_trajectories",
            id="subagents that are none",
        ),
    ],
)
def test_a_record_that_is_none_is_told(tmp_path: Path, format: str, rows: list, why: str):
    turns = [{"role": "user", "content": "q"}]
    good = {"prompt": turns, "completion": [{"role": "assistant", "content": "a"}], "label": True}
    good |= {"schema_version": "ATIF-v1.6", "agent": {}}
    good |= {"steps": [{"source": "user", "message": "q"}, {"source": "agent", "message": "a"}]}
    work = work_at(tmp_path)
    bring_in(work, format, as_lines(tmp_path / "a.jsonl", *rows, good))
    assert "a" in table(work, "nodes")["text"].to_list()
    ((_, line, said),) = violations(work)
    assert line == 1
    assert why in said


def trajectory(question: str, *inner: object) -> dict:
    steps = [{"source": "user", "message": question}, {"source": "agent", "message": "a"}]
    below = {"subagent_trajectories": list(inner)} if inner else {}
    return {"schema_version": "ATIF-v1.6", "agent": {"name": "x"}, "steps": steps, **below}


def test_subagents_are_told_once_and_a_bad_one_alone(tmp_path: Path):
    bad = {"schema_version": "ATIF-v1.6", "agent": {}, "steps": 3}
    said = trajectory("outer", trajectory("first", trajectory("inner")), bad, trajectory("second"))
    work = work_at(tmp_path)
    bring_in(work, "atif", as_lines(tmp_path / "a.jsonl", said))
    assert set(table(work, "tasks")["question"]) == {"outer", "first", "inner", "second"}
    assert ["entry 2" in why for *_, why in violations(work)] == [True]
    assert "subagent_trajectories" not in str(table(work, "scores")["text"].to_list())
