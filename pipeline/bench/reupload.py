"""How much of a release is sent again after a change, to where equal chunks are kept once. Part of bench `store`."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl

from pipeline.bench.chunks import MEAN, chunks
from pipeline.bench.credit import COLUMNS
from pipeline.bench.draw import ROUND, Slice, task_name
from pipeline.bench.forest import SUITE, StoredForest, place, slices, write_shard, write_tasks
from pipeline.bench.metric import Metric, ratio
from pipeline.bench.shape import Shape
from pipeline.credit import METHODS
from pipeline.credit.tables import credit_frame, seen_by, trees_from_nodes
from pipeline.publish.release import stage_release
from pipeline.store.store import Store

TASKS = 2_000
"""Of the forest that changes."""
APPENDED = 0.05
"""Share of tasks that are added."""
PAIRS = 6
"""Of tasks that are deleted, each by itself: how much is new depends on where they lay."""
METHOD = "spo_tree"
"""Of the credit that is added."""

Chunks = dict[bytes, int]


def measure_reupload(forest: StoredForest) -> Iterator[Metric]:
    """Share of bytes that are not kept yet, by change."""
    shape = replace(forest.shape, tasks=TASKS, shard_tasks=TASKS)
    before = store_without((), Store(forest.root / "before"), shape)
    known = _chunks(_released(before))

    def share(change: str, now: Chunks, **of: list[str]) -> Metric:
        new = sum(size for digest, size in now.items() if digest not in known)
        params = {"change": change, **of, "mean_chunk": MEAN, **shape.params()}
        return ratio("store.reupload_share", new, sum(now.values()), unit="share", params=params)

    more = replace(shape, tasks=TASKS + max(1, round(APPENDED * TASKS)))
    yield share(f"{APPENDED:.0%} more tasks", _chunks(_released(store_without((), Store(forest.root / "grown"), more))))
    for number in range(PAIRS):
        gone = random.Random(number).sample(range(TASKS), 2)
        cut = _released(store_without(gone, Store(forest.root / f"cut{number}"), shape))
        yield share("two tasks deleted", _chunks(cut), gone=[task_name(task) for task in gone])
    _write_credit(before)
    credited = _released(before)
    base = {path: data for path, data in credited.items() if path.parts[0] != "credit"}
    yield share("one more credit method: all but credit", _chunks(base))
    yield share("one more credit method", _chunks(credited))


def store_without(gone: Collection[int], store: Store, shape: Shape) -> Store:
    """A store with the forest of a shape and its tasks, in shards, less some tasks."""
    for number, first in enumerate(range(0, shape.tasks, shape.shard_tasks)):
        last = min(first + shape.shard_tasks, shape.tasks)
        write_shard(store, shape, number, (_less(gone, some) for some in slices(shape, first, last)))
        write_tasks(store, number, [task for task in range(first, last) if task not in gone])
    return store


def _less(tasks: Collection[int], some: Slice) -> Slice:
    """The same less some tasks."""
    gone = pl.col("task").is_in([task_name(task) for task in tasks])
    kept = {stage: {table: of.filter(~gone) for table, of in rows.items()} for stage, rows in some.rows.items()}
    return some._replace(rows=kept)


def _write_credit(store: Store) -> None:
    """A credit method's rows on all nodes, in a file of their own."""
    method = METHODS[METHOD]
    nodes = store.read("nodes", store.places("nodes"), columns=list(COLUMNS)).filter(seen_by(method))
    nodes = nodes.sort("tree", "node")
    trees = trees_from_nodes(nodes, store.read("verdicts", store.places("verdicts")))
    rows = credit_frame(nodes, trees, method.function(trees, method.params()), METHOD)
    store.write("credit", rows, place(METHOD, 0), inputs={})


def _released(store: Store) -> dict[Path, bytes]:
    """The Parquet files of a release, by path in its folder."""
    folder = store.root.with_name(f"{store.root.name}.release")
    stage_release(store, suite=SUITE, round=ROUND, folder=folder, licence="mit")
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


def _chunks(files: dict[Path, bytes]) -> Chunks:
    """The different chunks of all files."""
    found: Chunks = {}
    for data in files.values():
        found |= chunks(data)
    return found
