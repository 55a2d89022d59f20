"""Files of an older version are read as today's, beside new ones; those of a newer one are refused by name."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import dataframely as dy
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

from pipeline.errors import BadTable
from pipeline.generation.engine import Completion, Sampling, make_request
from pipeline.store.audit import audit
from pipeline.store.layout import Place
from pipeline.store.ledger import Ledger
from pipeline.store.query import open_database
from pipeline.store.store import Store
from pipeline.store.write import META, validated
from schemas import TABLES
from schemas.versions import UPGRADES, added_since, version_of

OLD, NEW = Place("sums", "r0", "rollouts", "train-000"), Place("sums", "r0", "trees", "train-000")


def drawn(table: str, seed: int) -> pl.DataFrame:
    return TABLES[table].sample(6, generator=dy.random.Generator(seed))


def write_raw(store: Store, table: str, rows: pl.DataFrame, at: Place, **meta) -> None:
    """A file as other versions wrote it, with no seal."""
    path = at.path(store.root, table)
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {"table": table, "schema_version": 1, "digest": "d", "inputs": {"a": "b"}} | meta
    data = validated(table, rows).drop(added_since(table, told["schema_version"])).to_arrow()
    plain = data.cast(pa.schema([(field.name, plain_type(field.type)) for field in data.schema]))
    pq.write_table(plain.replace_schema_metadata({META: json.dumps(told)}), path)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Never large, as in a file."""
    if pa.types.is_large_list(kind):
        return pa.list_(plain_type(kind.value_type))
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else kind


def as_read(table: str, rows: pl.DataFrame) -> pl.DataFrame:
    """What an old file's rows are today: counted where they can be, else not known."""
    lost = {name: pl.lit(None) for name in added_since(table, 1) if name != "token_count"}
    return rows.with_columns(pl.lit(None, rows.schema[name]).alias(name) for name in lost)


def in_order(table: str, rows: pl.DataFrame) -> pl.DataFrame:
    return rows.sort(list(dict.fromkeys(("task", *TABLES[table].primary_key()))))


@pytest.mark.parametrize("table", UPGRADES)
def test_an_old_file_beside_a_new_one(tmp_path: Path, table: str):
    store, old, new = Store(tmp_path), drawn(table, 1), drawn(table, 2)
    write_raw(store, table, old, OLD)
    store.write(table, new, NEW, inputs={})
    entry = store.entry(table, OLD)
    assert (entry.version, entry.sealed, entry.inputs, entry.rows) == (1, False, {"a": "b"}, 6)
    assert entry.first_task == old["task"].min()
    expected = in_order(table, pl.concat([as_read(table, old), new]))
    assert_frame_equal(store.read(table, [OLD, NEW]), expected)
    assert_frame_equal(pl.from_arrow(pa.concat_tables(store.batches(table, [NEW, OLD]))), expected)
    assert_frame_equal(in_order(table, store.scan(table).collect()), expected)
    for column in added_since(table, 1):
        assert_frame_equal(store.read(table, [OLD], columns=[column]), in_order(table, as_read(table, old))[[column]])
        (found,) = store.batches(table, [OLD], columns=[column])
        assert found.column_names == ["task", column]


@pytest.mark.parametrize("table", TABLES)
def test_a_newer_file_is_refused_by_name(tmp_path: Path, table: str):
    store, newer = Store(tmp_path), version_of(table) + 1
    write_raw(store, table, drawn(table, 1), OLD, schema_version=newer)
    for look in (lambda: store.read(table, [OLD]), lambda: store.scan(table), store.catalogue):
        with pytest.raises(BadTable, match=rf"train-000\.parquet has version {newer} of {table}, .* up to {newer - 1}"):
            look()
    (found,) = audit(store)
    assert not found.passed
    assert "update branchpoint" in found.detail


def test_nothing_is_derived_in_sql(tmp_path: Path):
    """A view can't: what an old file lacks is null there."""
    store, rows = Store(tmp_path), drawn("nodes", 1)
    write_raw(store, "nodes", rows, OLD)
    with open_database(store) as database:
        asked = "select count(*), count(token_count), sum(len(token_ids)) from nodes"
        assert database.execute(asked).fetchone() == (6, 0, rows["token_count"].sum())


def test_an_old_ledger_is_marked_once(tmp_path: Path):
    asked = make_request(np.array([1], np.int32), Sampling(), sample=0, fingerprint="p")
    failed = Completion(asked.key, np.array([], np.int32), np.array([], np.float32), None, None, 0.5, error="no")
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        for _ in range(2):
            ledger.put([(asked, failed)], policy="p", engine="scripted", asked_by="a/b/c")
        before = ledger.get([asked.key])[asked.key]
    with closing(sqlite3.connect(path)) as old, old:
        for column in ("mark", "asked_by"):
            old.execute(f"alter table completions drop column {column}")
    with Ledger(path) as ledger:
        found = ledger.get([asked.key])[asked.key]
        assert (
            (found.attempts, found.asked_by, found.completion.error) == (2, None, "no") != (before.attempts, None, "")
        )
        assert list(ledger.damage()) == []
    for spoil in ("attempts = 3", "mark = null", "error = 'yes'"):
        with closing(sqlite3.connect(path)) as other, other:
            whole = other.execute("select attempts, mark, error from completions").fetchone()
            other.execute(f"update completions set {spoil}")
        with Ledger(path) as ledger:
            with pytest.raises(BadTable, match="not as it was recorded"):
                ledger.get([asked.key])
            assert len(list(ledger.damage())) == 1
        with closing(sqlite3.connect(path)) as other, other:
            other.execute("update completions set attempts = ?, mark = ?, error = ?", whole)
