"""The store: equal rows give equal bytes, and a write happens whole or not at all."""

import errno
import os
import shutil
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from unittest.mock import Mock

import dataframely as dy
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipeline.errors import BadConfig, BadTable, StoreFull
from pipeline.store import write as writing
from pipeline.store.digest import content_digest
from pipeline.store.layout import Place
from pipeline.store.store import Store
from pipeline.store.write import as_arrow, group_edges, validated
from schemas import TABLES
from schemas.base import column_types

HERE = Place("sums", "r0", "rollouts", "train-000")


@cache
def random_rows(table: str) -> pl.DataFrame:
    return TABLES[table].sample(8, generator=dy.random.Generator(7))


def label(**changes) -> dict:
    row = dict.fromkeys(column_types(TABLES["step_labels"]))
    return row | {"task": "a", "tree": "a@r0", "node": 1, "labeller": "monte_carlo", "version": "1"} | changes


def labels(*rows: dict) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=column_types(TABLES["step_labels"]), orient="row")


def files(root: Path) -> list[str]:
    return sorted(
        path.name
        for path in root.rglob("*")
        if path.is_file() and path.parent.name != ".locks" and path.suffix != ".sqlite"
    )


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


class TestPlace:
    def test_path(self):
        expected = "s/nodes/suite=sums/round=r0/stage=rollouts/train-000.parquet"
        assert HERE.path(Path("s"), "nodes").as_posix() == expected

    @pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "ä", "a" * 81, "a=b\n"])
    def test_refuses_names_that_are_no_folders(self, name):
        with pytest.raises(BadConfig, match="cannot be the name"):
            Place(name, "r0", "rollouts", "train-000")

    def test_found_sorted_and_by_part(self, tmp_path):
        places = [Place("sums", round, stage, "train-000") for round in ("r1", "r0") for stage in ("trees", "rollouts")]
        for place in places:
            place.path(tmp_path, "nodes").parent.mkdir(parents=True)
            place.path(tmp_path, "nodes").touch()
        assert Store(tmp_path).places("nodes") == sorted(places)
        assert Store(tmp_path).places("nodes", round="r0", stage="trees") == [places[2]]
        assert Store(tmp_path).places("verdicts") == []


class TestSameRowsSameBytes:
    @pytest.mark.parametrize("table", TABLES)
    def test_whatever_their_order_and_chunks(self, store, table):
        rows = random_rows(table)
        other = Place("sums", "r0", "rollouts", "train-001")
        shuffled = rows.sample(fraction=1, shuffle=True, seed=1).select(reversed(rows.columns))
        chunked = pl.concat([shuffled[:3], shuffled[3:]], rechunk=False)
        first = store.write(table, rows, HERE, inputs={"a": "b"})
        second = store.write(table, chunked, other, inputs={"a": "b"})
        assert first.digest == second.digest == store.digest(table, HERE)
        assert first.path.read_bytes() == second.path.read_bytes()
        keys = list(dict.fromkeys([*(("task",) if "task" in rows.columns else ()), *TABLES[table].primary_key()]))
        assert_frame_equal(store.read(table, [HERE]), rows.sort(keys))

    @pytest.mark.parametrize(
        ("left", "right"),
        [
            pytest.param([None, 1], [0, 1], id="null and zero"),
            pytest.param([None, "a"], ["", "a"], id="null and empty text"),
            pytest.param(["ab", "c"], ["a", "bc"], id="border between texts"),
            pytest.param([[1], [2]], [[1, 2], []], id="border between lists"),
            pytest.param([[1], None], [[1], []], id="null and empty list"),
            pytest.param([[1, None]], [[1, 0]], id="null and zero in a list"),
            pytest.param([1.0, 2.0], [2.0, 1.0], id="order"),
            pytest.param([True, None], [True, False], id="null and false"),
        ],
    )
    def test_digest_tells_apart(self, left, right):
        kind = pa.infer_type(left)
        left, right = (pa.table({"x": pa.array(values, kind)}) for values in (left, right))
        assert content_digest(left) != content_digest(right)
        halves = pa.concat_tables([left.slice(0, 1), left.slice(1)])
        assert content_digest(halves) == content_digest(left)


def tasks_table(tasks: str) -> pa.Table:
    return pa.table({"task": list(tasks), "x": pa.array(range(len(tasks)), pa.int32())})


class TestRowGroups:
    @pytest.mark.parametrize(
        ("tasks", "limits", "edges"),
        [
            pytest.param("aabbbc", {"max_rows": 9}, [6], id="all in one"),
            pytest.param("aabbbc", {"max_rows": 5}, [2, 6], id="the least hash of the tasks that fit"),
            pytest.param("aabbbc", {"max_rows": 4}, [2, 6], id="a task is not cut"),
            pytest.param("aabbbc", {"max_rows": 1}, [2, 5, 6], id="a task larger than the limit stays whole"),
            pytest.param("abcdef", {"max_bytes": 1}, [1, 2, 3, 4, 5, 6], id="bytes"),
            pytest.param("", {}, [0], id="no rows"),
        ],
    )
    def test_edges(self, tasks, limits, edges):
        assert group_edges(tasks_table(tasks), **limits) == edges

    def test_a_table_without_tasks_is_one_group(self):
        assert group_edges(pa.table({"x": [1, 2, 3]}), max_rows=1) == [3]

    @settings(deadline=None)
    @given(st.lists(st.integers(1, 5), min_size=1, max_size=20), st.integers(1, 12))
    def test_edges_are_task_borders(self, sizes, limit):
        data = tasks_table("".join(chr(97 + index) * size for index, size in enumerate(sizes)))
        edges = [0, *group_edges(data, max_rows=limit)]
        assert edges[-1] == sum(sizes)
        assert set(edges) <= {0, *np.cumsum(sizes).tolist()}
        for start, end in pairwise(edges):
            assert end - start <= limit or len(set(data["task"][start:end].to_pylist())) == 1

    @pytest.mark.parametrize(("gone", "rows"), [(0, 3), (50, 3), (500, 3), (3, 20), (3, 40), (3, 49), (3, 70)])
    def test_edges_find_back_after_a_change(self, gone, rows):
        tasks = [f"task {number:04}" for number in range(1000) for _ in range(rows)]
        rest = [task for task in tasks if task != f"task {gone:04}"]
        ends = [
            {some[edge - 1] for edge in group_edges(pa.table({"task": some}), max_rows=100)} for some in (tasks, rest)
        ]
        assert len(ends[0] ^ ends[1]) < 12 < len(ends[0])

    def test_in_the_file(self, store, monkeypatch):
        monkeypatch.setattr(writing, "group_edges", partial(group_edges, max_rows=4))
        rows = [label(task=task, tree=f"{task}@r0", node=node) for task in "cab" for node in range(3)]
        written = store.write("step_labels", labels(*rows), HERE, inputs={})
        data = pq.ParquetFile(written.path).metadata
        ranges = [data.row_group(group).column(0).statistics for group in range(data.num_row_groups)]
        assert [(found.min, found.max) for found in ranges] == [("a", "a"), ("b", "b"), ("c", "c")]

    def test_text_that_is_no_utf8_is_refused(self, store):
        """Polars takes it unseen, and every reader after it breaks."""
        rows = as_arrow(TABLES["nodes"], random_rows("nodes"))
        broken = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"], pa.binary()).buffers())
        text = pa.chunked_array([broken, *rows["text"].slice(1).chunks])
        with (
            pytest.raises(BadTable, match="Invalid UTF8"),
            store.writer("nodes", HERE, inputs={}) as out,
        ):
            out.add(rows.set_column(rows.column_names.index("text"), "text", text))
        assert store.entry("nodes", HERE) is None

    def test_encodings(self, store):
        path = store.write("nodes", random_rows("nodes"), HERE, inputs={}).path
        group = pq.ParquetFile(path).metadata.row_group(0)
        columns = {group.column(n).path_in_schema: group.column(n) for n in range(group.num_columns)}
        names = ("token_ids.list.element", "logprobs.list.element", "text", "tree")
        ids, logprobs, text, tree = (set(columns[name].encodings) for name in names)
        assert "PLAIN" in ids
        assert not ids & {"RLE_DICTIONARY", "PLAIN_DICTIONARY", "DELTA_BINARY_PACKED"}
        assert "BYTE_STREAM_SPLIT" in logprobs
        assert "RLE_DICTIONARY" in tree
        assert "RLE_DICTIONARY" not in text
        assert {column.compression for column in columns.values()} == {"ZSTD"}
        assert all(column.has_offset_index for column in columns.values())


class TestRefusals:
    @pytest.mark.parametrize(
        ("rows", "rule", "row"),
        [
            pytest.param([label(), label(node=2, soft=2.0)], r"1 rows break soft\|max", "'node': 2", id="bound"),
            pytest.param([label(soft=float("nan"))], r"1 rows break soft\|", "'node': 1", id="not a number"),
            pytest.param([label(), label()], "2 rows break primary_key", "'node': 1", id="key twice"),
            pytest.param([label(task=None)], r"break task\|nullability", "'node': 1", id="null"),
            pytest.param(
                [label(k=-1), label(node=2, soft=2.0), label(node=3, soft=3.0)],
                r"2 rows break soft\|max",
                "'node': 2",
                id="a row that breaks the rule named",
            ),
        ],
    )
    def test_names_rule_and_row_and_writes_nothing(self, store, rows, rule, row):
        with pytest.raises(BadTable, match=rule) as refused:
            store.write("step_labels", labels(*rows), HERE, inputs={})
        assert f"the first is {{'tree': 'a@r0', {row}," in str(refused.value)
        assert files(store.root) == []

    def test_rules_over_columns(self):
        rows = random_rows("nodes")[:2].with_columns(node=pl.Series([1, 2], dtype=pl.Int32), parent=pl.lit(2))
        with pytest.raises(BadTable, match="parents_first"):
            validated("nodes", rows.with_columns(context=pl.lit(0)))

    def test_missing_column(self, store):
        with pytest.raises(BadTable, match="step_labels: no column soft, low"):
            store.write("step_labels", labels(label()).drop("soft", "low"), HERE, inputs={})

    def test_wrong_type(self):
        with pytest.raises(BadTable, match=r"k\|dtype"):
            validated("step_labels", labels(label()).with_columns(k=pl.lit("many")))


class TestWholeOrNotAtAll:
    @pytest.mark.parametrize(("owner", "name"), [(pq.ParquetWriter, "write_table"), (os, "fsync"), (Path, "replace")])
    @pytest.mark.parametrize(
        ("error", "shown"),
        [
            pytest.param(OSError(errno.ENOSPC, "full"), StoreFull, id="full disk"),
            pytest.param(OSError(errno.EIO, "broken"), OSError, id="broken disk"),
            pytest.param(KeyboardInterrupt(), KeyboardInterrupt, id="interrupted"),
        ],
    )
    def test_the_old_file_stays(self, store, monkeypatch, owner, name, error, shown):
        before = store.write("step_labels", labels(label()), HERE, inputs={}).path.read_bytes()
        monkeypatch.setattr(owner, name, Mock(side_effect=error))
        with pytest.raises(shown):
            store.write("step_labels", labels(label(node=2)), HERE, inputs={})
        monkeypatch.undo()
        assert HERE.path(store.root, "step_labels").read_bytes() == before
        assert files(store.root) == ["train-000.parquet"]
        store.write("step_labels", labels(label(node=2)), HERE, inputs={})
        assert store.read("step_labels", [HERE])["node"].to_list() == [2]

    def test_no_folder_can_be_made(self, store):
        store.root.write_text("a file")
        with pytest.raises(StoreFull, match="BRANCHPOINT_STORE"):
            store.write("step_labels", labels(label()), HERE, inputs={})

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_unwritable_folder(self, store):
        store.root.mkdir(mode=0o500)
        with pytest.raises(StoreFull, match="Permission denied"):
            store.write("step_labels", labels(label()), HERE, inputs={})


class TestReading:
    def test_current_only_by_the_same_inputs(self, store):
        made_from = {"version": "1", "nodes": "abc"}
        assert not store.is_current(("step_labels",), HERE, made_from)
        store.write("step_labels", labels(label()), HERE, inputs=made_from)
        assert store.is_current(("step_labels",), HERE, made_from)
        assert not store.is_current(("step_labels",), HERE, made_from | {"nodes": "abd"})
        assert not store.is_current(("step_labels", "credit"), HERE, made_from)

    def test_newer_schema_is_refused_by_name(self, store, monkeypatch, tmp_path):
        monkeypatch.setattr(writing, "version_of", lambda table: 99)
        path = store.write("step_labels", labels(label()), HERE, inputs={}).path
        copy = Store(Path(shutil.copytree(store.root, tmp_path / "copy", ignore=shutil.ignore_patterns("*.sqlite"))))
        with pytest.raises(
            BadTable, match=rf"{path.name} has version 99 of step_labels, this branchpoint reads up to 3"
        ):
            copy.entry("step_labels", HERE)

    def test_a_foreign_file_is_refused_by_name(self, store):
        path = HERE.path(store.root, "step_labels")
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table({"x": [1]}), path)
        with pytest.raises(BadTable, match=r"train-000\.parquet was not written by branchpoint"):
            store.entry("step_labels", HERE)

    @pytest.mark.parametrize("read", [Store.entry, Store.rows, lambda store, *at: store.read(at[0], [at[1]])])
    def test_a_damaged_file_is_refused_by_name(self, store, read):
        path = store.write("step_labels", labels(label()), HERE, inputs={}).path
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(BadTable, match=r"train-000\.parquet is damaged"):
            read(store, "step_labels", HERE)

    def test_unknown_stays_null(self, store):
        rows = labels(label(), label(node=2, soft=0.0, k=0, hard=False, rationale=""))
        store.write("step_labels", rows, HERE, inputs={})
        assert store.read("step_labels", [HERE], columns=["soft", "k", "hard", "rationale"]).rows() == [
            (None, None, None, None),
            (0.0, 0, False, ""),
        ]

    def test_shards_merge_by_task_and_key(self, store):
        there = Place("sums", "r0", "trees", "train-000")
        store.write("step_labels", labels(label(task="b", tree="b@r0"), label(node=4)), HERE, inputs={})
        store.write("step_labels", labels(label(node=3)), there, inputs={})
        rows = store.read("step_labels", [there, HERE, Place("sums", "r9", "trees", "train-000")])
        assert rows.select("task", "node").rows() == [("a", 3), ("a", 4), ("b", 1)]
        assert (store.rows("step_labels", HERE), store.rows("credit", HERE)) == (2, 0)
        assert store.places("step_labels", stage="trees") == [there]
        store.drop("step_labels", there)
        assert store.places("step_labels") == [HERE]

    def test_tasks_by_split(self, store):
        rows = random_rows("tasks").with_columns(split=pl.Series(["train"] * 6 + ["held_out"] * 2))
        at = Place("sums", "all", "tasks", "train-000")
        written = store.write("tasks", rows, at, inputs={})
        assert store.tasks("sums").height == 8
        assert store.tasks("sums", split="held_out").height == 2
        assert store.tasks("others").height == 0
        assert store.tasks_digest("sums", "train-000") == written.digest
        assert store.tasks_digest("sums", "train-001") == ""
