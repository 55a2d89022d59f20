"""Writers of one shard exclude each other; whoever reads meanwhile has the old file or the new one, whole."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from shard_writers import AT, ROWS, WRITES, credit, hold, write_often

from pipeline.errors import BadTable
from pipeline.store.audit import audit
from pipeline.store.layout import Place
from pipeline.store.store import Store

OTHER = Place("sums", "r0", "rollouts", "train-001")


@pytest.fixture
def child(tmp_path: Path):
    """Starts a function in a process of its own, on a store."""
    context, started = multiprocessing.get_context("spawn"), []

    def start(function) -> tuple[multiprocessing.Process, Connection]:
        here, there = context.Pipe()
        process = context.Process(target=function, args=(tmp_path, there))
        process.start()
        there.close()
        started.append((process, here))
        assert here.recv() == "begun"
        return process, here

    yield start
    for process, here in started:
        here.close()
        process.kill()
        process.join()


class TestTwoWriters:
    def test_the_second_is_told(self, tmp_path: Path, child):
        store = Store(tmp_path)
        store.write("credit", credit(1.0), AT, inputs={})
        process, told = child(hold)
        with pytest.raises(BadTable, match=rf"^{AT.name('credit')} is being written by another process; wait") as said:
            store.write("credit", credit(3.0), AT, inputs={})
        assert "\n" not in str(said.value)
        assert store.read("credit", [AT])["advantage"].unique().to_list() == [1.0]
        store.write("credit", credit(4.0), OTHER, inputs={})
        told.send("go on")
        assert told.recv() == "ended"
        process.join()
        assert process.exitcode == 0
        assert store.read("credit", [AT])["advantage"].unique().to_list() == [2.0]
        store.write("credit", credit(5.0), AT, inputs={})
        assert store.read("credit", [AT])["advantage"].unique().to_list() == [5.0]

    def test_one_that_is_killed_holds_nobody_up(self, tmp_path: Path, child):
        store = Store(tmp_path)
        process, _ = child(hold)
        process.kill()
        process.join()
        assert list(tmp_path.rglob("*.part")) != []
        assert store.places("credit") == store.catalogue() == list(audit(store)) == []
        store.write("credit", credit(3.0), AT, inputs={})
        assert store.read("credit", [AT])["advantage"].unique().to_list() == [3.0]

    def test_threads_of_one_process_exclude_each_other_too(self, tmp_path: Path):
        store = Store(tmp_path)
        with store.writer("credit", AT, inputs={}) as out:
            out.add(credit(1.0))
            with pytest.raises(BadTable, match="is being written"):
                store.write("credit", credit(2.0), AT, inputs={})
        assert store.read("credit", [AT])["advantage"].unique().to_list() == [1.0]


def test_a_reader_sees_the_old_file_or_the_new_one_whole(tmp_path: Path, child):
    process, told = child(write_often)
    store, seen, deadline = Store(tmp_path), [], time.monotonic() + 120
    while not told.poll():
        assert time.monotonic() < deadline
        rows = store.read("credit", [AT])
        (number,) = rows["advantage"].unique().to_list()
        assert rows.height == ROWS + number
        seen.append(number)
        assert {found.passed for found in audit(store) if found.check == "file"} == {True}
        entry = store.entry("credit", AT)
        assert entry.rows == ROWS + int(entry.inputs["number"])
    process.join()
    assert process.exitcode == 0
    assert seen == sorted(seen)
    assert len(set(seen)) > 2
    assert store.read("credit", [AT]).height == ROWS + WRITES - 1
