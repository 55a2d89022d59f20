"""Large and odd stores: batches of any size give the same bytes, shards may interleave, little is new after an edit."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pyarrow as pa
import pytest

from pipeline.bench.chunks import chunks
from pipeline.bench.draw import ROUND
from pipeline.bench.forest import SUITE
from pipeline.bench.reupload import store_without
from pipeline.bench.shape import Shape
from pipeline.publish import source
from pipeline.publish.release import stage_release
from pipeline.publish.source import Source
from pipeline.store.layout import Place
from pipeline.store.store import Store

SHAPE = Shape(tasks=60, shard_tasks=20)


def stage(store: Store, folder):
    return stage_release(store, suite=SUITE, round=ROUND, folder=folder, licence="mit").folder


def data_of(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


def test_batches_of_any_size_give_the_same_bytes(tmp_path, monkeypatch):
    store = store_without((), Store(tmp_path / "store"), SHAPE)
    wanted = data_of(stage(store, tmp_path / "large"))
    assert len(wanted) >= 3
    read = Source.batches
    monkeypatch.setattr(Source, "batches", lambda self, table, split: read(self, table, split, rows=1))
    assert data_of(stage(store, tmp_path / "small")) == wanted


def test_shards_that_interleave_are_merged(tmp_path):
    """The same rows in shards by the last digit of a task, whose names say nothing of a split."""
    plain = store_without((), Store(tmp_path / "plain"), SHAPE)
    mixed = Store(tmp_path / "mixed")
    for table in ("tasks", "nodes", "verdicts", "variants"):
        for name in sorted({place.stage for place in plain.places(table)}):
            places = plain.places(table, stage=name)
            rows = plain.read(table, places)
            for digit in "0123456789":
                some = rows.filter(pl.col("task").str.ends_with(digit))
                mixed.write(table, some, replace(places[0], shard=f"part{digit}"), inputs={})
    assert data_of(stage(mixed, tmp_path / "b")) == data_of(stage(plain, tmp_path / "a"))


def test_what_is_held_is_a_batch(tmp_path):
    """Batches are of about the size asked for, however many shards there are."""
    store = store_without((), Store(tmp_path / "store"), SHAPE)
    found = list(Source(store, SUITE, ROUND).batches("nodes", "train", rows=500))
    total = sum(batch.num_rows for batch in found)
    tasks = [set(batch["task"].unique().to_pylist()) for batch in found]
    assert len(found) > 2
    assert sum(map(len, tasks)) == SHAPE.tasks, "a task is whole in one batch"
    assert total == sum(store.rows("nodes", place) for place in store.places("nodes"))


def test_two_tasks_less_and_little_is_new(tmp_path):
    """Chunks by content, as the Hub keeps them: of 300 tasks the chunks around two are the greater part of a file."""
    shape = Shape(tasks=300, shard_tasks=300)
    before = data_of(stage(store_without((), Store(tmp_path / "whole"), shape), tmp_path / "a"))
    after = data_of(stage(store_without((15, 150), Store(tmp_path / "less"), shape), tmp_path / "b"))
    known = {digest for data in before.values() for digest in chunks(data)}
    now = {digest: size for data in after.values() for digest, size in chunks(data).items()}
    new = sum(size for digest, size in now.items() if digest not in known)
    assert 0 < new < sum(now.values()) / 2


def test_forecasts_are_left_out(tmp_path):
    store = store_without((), Store(tmp_path / "store"), SHAPE)
    row = {"suite": SUITE, "split": "train", "value": 1.0, "low": None, "high": None, "count": 1}
    for policy in ("tiny", source.PLAN):
        rows = pl.DataFrame([{"policy": policy, "metric": "pass@1", **row}]).cast({"count": pl.Int64})
        store.write("evals", rows, Place(SUITE, ROUND, policy, "train"), inputs={})
    folder = stage(store, tmp_path / "release")
    assert pl.read_parquet(folder / "evals" / "train-*.parquet")["policy"].to_list() == ["tiny"]


@pytest.mark.parametrize("kind", [pa.map_(pa.string(), pa.int32()), pa.dictionary(pa.int8(), pa.string())])
def test_types_the_hub_does_not_have_are_refused(kind):
    from pipeline.publish.features import schema_features

    with pytest.raises(ValueError, match="column info is"):
        schema_features(pa.schema([("info", kind)]))
