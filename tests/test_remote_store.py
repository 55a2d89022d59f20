"""A store behind a URL: what a folder holds, each file put there once and whole."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import dataframely as dy
import polars as pl
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from polars.testing import assert_frame_equal

from pipeline.errors import BadConfig, BadTable
from pipeline.store.audit import audit
from pipeline.store.layout import Place
from pipeline.store.store import Store
from schemas import TABLES

AT = Place("sums", "r0", "rollouts", "train-000")
TABLE = "credit"


@pytest.fixture(params=["memory", "file", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "memory":
        return Store(f"memory://{uuid4().hex}/store", tmp_path / "local")
    return Store(f"file://{tmp_path}/store" if request.param == "file" else tmp_path / "store")


@pytest.fixture
def remote(tmp_path: Path) -> Store:
    return Store(f"memory://{uuid4().hex}/store", tmp_path / "local")


def drawn(seed: int = 1) -> pl.DataFrame:
    return TABLES[TABLE].sample(6, generator=dy.random.Generator(seed))


def in_order(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.sort("task", "tree", "node", "method")


def content(store: Store, name: str) -> bytes:
    with store.files.open(name) as file:
        return file.read()


def put(store: Store, name: str, data: bytes) -> None:
    store.files.fs.pipe_file(f"{store.root}/{name}", data)


def test_does_what_a_folder_does(store: Store, tmp_path: Path):
    rows, name = drawn(), AT.name(TABLE)
    assert store.places(TABLE) == store.catalogue() == []
    assert store.entry(TABLE, AT) is None
    written = store.write(TABLE, rows, AT, inputs={"a": "b"})
    same = Store(tmp_path / "same").write(TABLE, rows, AT, inputs={"a": "b"})
    assert content(store, name) == same.path.read_bytes()
    (entry,) = store.catalogue(TABLE, suite="sums", round="r0", stage="rollouts")
    assert (entry.name, entry.rows, entry.digest, entry.inputs) == (name, 6, written.digest, {"a": "b"})
    assert (entry.first_task, entry.last_task) == (rows["task"].min(), rows["task"].max())
    assert store.places(TABLE) == [AT]
    assert_frame_equal(store.read(TABLE, [AT]), in_order(rows))
    assert_frame_equal(pl.from_arrow(pa.concat_tables(store.batches(TABLE, [AT]))), in_order(rows))
    assert_frame_equal(store.scan(TABLE).collect(), in_order(rows))
    assert {found.passed for found in audit(store) if found.check == "file"} == {True}
    with store.ledger() as ledger:
        assert ledger.count() == 0
    store.write(TABLE, drawn(2), AT, inputs={})
    assert_frame_equal(store.read(TABLE, [AT]), in_order(drawn(2)))
    store.drop(TABLE, AT)
    store.drop(TABLE, AT)
    assert store.places(TABLE) == store.catalogue() == []


def test_each_file_is_put_once(remote: Store, monkeypatch: pytest.MonkeyPatch):
    puts, put_file = [], MemoryFileSystem.put_file
    monkeypatch.setattr(
        MemoryFileSystem, "put_file", lambda self, *args, **more: puts.append(args[1]) or put_file(self, *args, **more)
    )
    opened, open_file = [], MemoryFileSystem._open

    def note(self, path: str, mode: str = "rb", **more):
        opened.extend([path] if "w" in mode else [])
        return open_file(self, path, mode, **more)

    monkeypatch.setattr(MemoryFileSystem, "_open", note)
    with remote.writer(TABLE, AT, inputs={}) as out:
        for task in range(4):
            out.add(drawn().with_columns(task=pl.lit(f"t{task}"), tree=pl.lit(f"t{task}@r0")))
            assert remote.places(TABLE) == []
            assert remote.entry(TABLE, AT) is None
    assert len(puts) == len(opened) == 1
    assert puts[0].endswith(AT.name(TABLE))
    assert remote.rows(TABLE, AT) == 24


def test_a_write_that_fails_leaves_what_was_there(remote: Store):
    remote.write(TABLE, drawn(), AT, inputs={})
    before = content(remote, AT.name(TABLE))
    with pytest.raises(BadTable, match="no column"):
        remote.write(TABLE, drawn(2).drop("advantage"), AT, inputs={})
    assert content(remote, AT.name(TABLE)) == before
    assert [path for path in remote.local.rglob("*") if path.suffix in (".part", ".parquet")] == []


def test_damage_and_strangers_are_named(remote: Store):
    remote.write(TABLE, drawn(), AT, inputs={})
    whole = content(remote, AT.name(TABLE))
    for data in (b"", whole[:-1], whole[:50] + bytes([whole[50] ^ 1]) + whole[51:]):
        put(remote, AT.name(TABLE), data)
        with pytest.raises(BadTable, match=rf"memory://.*{AT.name(TABLE)} is damaged"):
            remote.read(TABLE, [AT])
        assert [found.passed for found in audit(remote)] == [False]
    put(remote, AT.name(TABLE), whole)
    put(remote, f"{TABLE}/lost.parquet", whole)
    (told,) = (found.detail for found in audit(remote) if not found.passed)
    assert told.startswith(f"{TABLE}/lost.parquet is not where a shard can be")


def test_what_is_known_is_not_read_again(remote: Store, monkeypatch: pytest.MonkeyPatch):
    """Also by the next process, from the cache beside the ledger; unless the file is another."""
    remote.write(TABLE, drawn(), AT, inputs={})
    again = Store(f"{remote.root}/", remote.local)
    with closing(sqlite3.connect(remote.local / "catalogue.sqlite")) as db:
        assert db.execute("select name from files").fetchall() == [(AT.name(TABLE),)]
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "_open", None)
        assert [entry.rows for entry in again.catalogue()] == [6]
    Store(remote.root, remote.local.with_name("elsewhere")).write(TABLE, drawn(2)[:3], AT, inputs={})
    assert [entry.rows for entry in again.catalogue()] == [3]


def test_what_fsspec_cannot_open(tmp_path: Path):
    with pytest.raises(BadConfig, match="nowhere://x cannot be opened"):
        Store("nowhere://x", tmp_path).catalogue()
