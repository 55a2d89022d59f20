"""Any forest comes back as it was written, whichever way it is written and read; what cannot be stored is refused."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path

import dataframely as dy
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipeline.errors import BadTable
from pipeline.store import write as writing
from pipeline.store.layout import Place
from pipeline.store.store import Store
from pipeline.store.write import group_edges
from schemas import TABLES
from schemas.base import arrow_schema, column_docs, column_types

STAGES = ("rollouts", "trees", "retries")
ODD = ("", "\0", "a\0b", "🌲🌳", "e\u0301", "\u202e\x1b[31m", "\ufffd", "'\";--", "x" * 700)
TEXTS = st.one_of(st.sampled_from(ODD), st.text(max_size=8))
TOKENS = st.lists(st.integers(0, 2**31 - 1), max_size=6)
LOGPROB = st.one_of(st.none(), st.floats(max_value=0, allow_infinity=False, width=32))


def at(stage: str = "rollouts", shard: str = "train-000") -> Place:
    return Place("wood", "r0", stage, shard)


def node(number: int, parent: int | None, **changes) -> dict:
    row = dict.fromkeys(column_types(TABLES["nodes"]))
    row |= {"task": "a", "tree": "a@r0", "node": number, "parent": parent, "context": 0, "depth": 0, "turn": 0}
    row |= {"agent": "solver", "kind": "step", "origin": "sample", "sampled": False, "token_ids": [number], "text": ""}
    row |= changes
    row["episode"], row["token_count"] = row["tree"], len(row["token_ids"])
    return row


def forest(*rows: dict) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=column_types(TABLES["nodes"]), orient="row")


@st.composite
def forests(draw: st.DrawFn) -> pl.DataFrame:
    rows = []
    for task in draw(st.lists(TEXTS, min_size=1, max_size=5, unique=True)):
        parents = [None, *(draw(st.integers(0, number - 1)) for number in range(1, draw(st.integers(1, 7))))]
        for number, parent in enumerate(parents):
            ids = draw(TOKENS)
            logprobs = draw(st.one_of(st.none(), st.lists(LOGPROB, min_size=len(ids), max_size=len(ids))))
            rows.append(
                node(
                    number,
                    parent,
                    task=task,
                    tree=f"{task}@r0",
                    token_ids=ids,
                    logprobs=logprobs,
                    text=draw(TEXTS),
                    tool_calls=draw(st.one_of(st.none(), TEXTS)),
                )
            )
    return forest(*draw(st.permutations(rows)))


@contextmanager
def empty_store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory() as folder:
        yield Store(Path(folder))


def in_order(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.sort("task", "tree", "node")


def joined(batches: list[pa.Table]) -> pl.DataFrame:
    return pl.from_arrow(pa.concat_tables(batches))


def assert_comes_back(store: Store, rows: pl.DataFrame) -> None:
    rows = in_order(rows)
    assert_frame_equal(store.read("nodes", store.places("nodes")), rows)
    assert_frame_equal(in_order(store.scan("nodes").collect()), rows)
    assert_frame_equal(joined(list(store.batches("nodes", store.places("nodes")))), rows)


@settings(deadline=None, max_examples=25)
@given(forests())
def test_a_forest_comes_back(rows: pl.DataFrame):
    with empty_store() as store:
        written = store.write("nodes", rows, at(), inputs={})
        assert_comes_back(store, rows)
        assert (written.first_task, written.last_task) == (rows["task"].min(), rows["task"].max())


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([node(0, None)], id="one node"),
        pytest.param([node(0, None, token_ids=[], logprobs=[])], id="no tokens"),
        pytest.param([node(n, n - 1 if n else None, depth=n, text=f"step {n}") for n in range(500)], id="a chain"),
        pytest.param([node(n, 0 if n else None, depth=min(n, 1)) for n in range(501)], id="a wide root"),
        pytest.param(
            [node(0, None, token_ids=list(range(200_000)), logprobs=[-0.25] * 200_000), node(1, 0, token_ids=[])],
            id="200,000 tokens in a node",
        ),
        pytest.param([node(n, 0 if n else None, text=text) for n, text in enumerate(ODD)], id="odd texts"),
    ],
)
def test_a_forest_of_an_odd_shape_comes_back(tmp_path: Path, rows: list[dict]):
    store = Store(tmp_path)
    store.write("nodes", forest(*reversed(rows)), at(), inputs={})
    assert_comes_back(store, forest(*rows))


@settings(deadline=None, max_examples=25)
@given(forests(), st.data(), st.integers(1, 9))
def test_a_stream_gives_the_bytes_of_one_write(rows: pl.DataFrame, data: st.DataObject, group: int):
    tasks = sorted(rows["task"].unique())
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, len(tasks))))), len(tasks)]
    with empty_store() as store, pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "group_edges", partial(group_edges, max_rows=group))
        whole = store.write("nodes", rows, at(), inputs={"a": "b"})
        with store.writer("nodes", at(shard="train-001"), inputs={"a": "b"}) as out:
            for start, end in pairwise(cuts):
                out.add(rows.filter(pl.col("task").is_in(tasks[start:end])))
        assert out.written[1:] == whole[1:]
        assert out.written.path.read_bytes() == whole.path.read_bytes()


@settings(deadline=None, max_examples=25)
@given(forests(), st.data(), st.integers(1, 4), st.integers(1, 9))
def test_stages_merge_to_what_read_gives(rows: pl.DataFrame, data: st.DataObject, group: int, size: int):
    stages = [data.draw(st.sampled_from(STAGES)) for _ in range(rows.height)]
    with empty_store() as store, pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "group_edges", partial(group_edges, max_rows=group))
        for stage in set(stages):
            store.write("nodes", rows.filter(pl.Series([one == stage for one in stages])), at(stage), inputs={})
        places = store.places("nodes")
        found = list(store.batches("nodes", places, rows=size))
        tasks = [set(batch["task"].to_pylist()) for batch in found]
        assert sum(map(len, tasks)) == len(set().union(*tasks)), "a task is in two batches"
        assert_frame_equal(joined(found), store.read("nodes", places))
        some = joined(list(store.batches("nodes", places, rows=size, columns=["node", "text"], dictionary=["text"])))
        assert_frame_equal(
            some.with_columns(pl.col("text").cast(pl.String)), in_order(rows).select("task", "node", "text")
        )


@pytest.mark.parametrize("size", [1, 3, 4, 100])
def test_a_stage_that_is_ahead_waits(tmp_path: Path, size: int):
    """Stages whose row groups end at different tasks, and lack different ones."""
    store, rows = Store(tmp_path), []
    for number, (stage, tasks, group) in enumerate(zip(STAGES, ("abcdefg", "bdeg", "acg"), (1, 2, 4), strict=True)):
        some = [node(number, 0 if number else None, task=task, tree=f"{task}@r0") for task in tasks]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(writing, "group_edges", partial(group_edges, max_rows=group))
            store.write("nodes", forest(*some), at(stage), inputs={})
        rows += some
    found = list(store.batches("nodes", store.places("nodes"), rows=size))
    tasks = [task for batch in found for task in sorted(set(batch["task"].to_pylist()))]
    assert tasks == list("abcdefg")
    assert_frame_equal(joined(found), in_order(forest(*rows)))
    assert len(found) > 1 or size == 100


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("seed", range(2))
def test_any_rows_of_any_table_come_back(tmp_path: Path, table: str, seed: int):
    rows = TABLES[table].sample(12, generator=dy.random.Generator(seed))
    store = Store(tmp_path)
    store.write(table, rows, at(), inputs={})
    keys = [key for key in dict.fromkeys(("task", *TABLES[table].primary_key())) if key in rows.columns]
    assert_frame_equal(store.read(table, [at()]), rows.sort(keys))
    assert_frame_equal(store.scan(table).collect(), rows.sort(keys))
    assert_frame_equal(joined(list(store.batches(table, [at()]))), rows.sort(keys))


@pytest.mark.parametrize("table", TABLES)
def test_schema_and_docs_are_the_declaration(table: str):
    declared, schema, docs = TABLES[table].columns(), arrow_schema(TABLES[table]), column_docs(TABLES[table])
    assert schema.names == [doc.name for doc in docs] == list(declared)
    for field, doc, column in zip(schema, docs, declared.values(), strict=True):
        assert (field.nullable, doc.nullable) == (column.nullable, column.nullable)
        assert field.metadata[b"description"].decode() == doc.description == column.description != ""
        assert pl.from_arrow(pa.array([], field.type)).dtype == column.dtype
        assert doc.type == str(field.type)


class TestRefusals:
    @pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
    def test_a_logprob_that_is_no_number(self, tmp_path: Path, wrong: float):
        rows = forest(node(0, None, logprobs=[-0.5]), node(1, 0, logprobs=[wrong]))
        with pytest.raises(BadTable, match=r"^nodes: 1 rows break logprobs\|.*the first is .*'node': 1"):
            Store(tmp_path).write("nodes", rows, at(), inputs={})
        assert list(tmp_path.rglob("*.parquet")) == list(tmp_path.rglob("*.part")) == []

    def test_bytes_that_are_no_text(self, tmp_path: Path):
        bad = forest(node(0, None)).with_columns(text=pl.Series([b"\xff"]))
        with pytest.raises(BadTable, match=r"^nodes: "):
            Store(tmp_path).write("nodes", bad, at(), inputs={})
        assert list(tmp_path.rglob("*.parquet")) == []

    def test_half_a_surrogate_is_no_text(self):
        with pytest.raises(UnicodeEncodeError):
            forest(node(0, None, text="\ud800"))

    def test_tasks_out_of_order(self, tmp_path: Path):
        store = Store(tmp_path)
        backwards = [forest(node(0, None, task=task, tree=f"{task}@r0")) for task in "ba"]

        def write() -> None:
            with store.writer("nodes", at(), inputs={}) as out:
                for rows in backwards:
                    out.add(rows)

        with pytest.raises(BadTable, match="rows of task a come after those of b"):
            write()
        assert store.places("nodes") == []
