"""How much of a store is sent again after a change, to where equal chunks are kept once. Part of bench `store`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain

import polars as pl

from pipeline.bench.chunks import MEAN, chunks
from pipeline.bench.credit import COLUMNS
from pipeline.bench.draw import Slice, task_name
from pipeline.bench.forest import StoredForest, place, slices, write_shard
from pipeline.bench.metric import Metric, ratio
from pipeline.bench.shape import Shape
from pipeline.credit import METHODS
from pipeline.credit.tables import credit_frame, seen_by, trees_from_nodes
from pipeline.store.store import Store

TASKS = 2_000
"""Of the forest that changes."""
APPENDED = 0.05
"""Share of tasks that are added."""
METHOD = "spo_tree"
"""Of the credit that is added."""


def measure_reupload(forest: StoredForest) -> Iterator[Metric]:
    """Share of bytes that are not stored yet, by change."""
    shape = replace(forest.shape, tasks=TASKS, shard_tasks=TASKS)
    before, grown, cut = (Store(forest.root / name) for name in ("before", "grown", "cut"))
    more, gone = max(1, round(APPENDED * TASKS)), [TASKS // 20, TASKS // 2]
    _write(before, shape, slices(shape, 0, TASKS))
    _write(grown, shape, chain(slices(shape, 0, TASKS), slices(shape, TASKS, TASKS + more)))
    _write(cut, shape, (_without(gone, some) for some in slices(shape, 0, TASKS)))
    _write_credit(before)
    known = _chunks(before, "nodes")
    for change, store, tables in (
        (f"{APPENDED:.0%} more tasks", grown, ("nodes",)),
        ("two tasks deleted", cut, ("nodes",)),
        ("one more credit method: nodes", before, ("nodes",)),
        ("one more credit method: nodes and credit", before, ("nodes", "credit")),
    ):
        now = _chunks(store, *tables)
        new = sum(size for digest, size in now.items() if digest not in known)
        params = {"change": change, "mean_chunk": MEAN, **shape.params()}
        yield ratio("store.reupload_share", new, sum(now.values()), unit="share", params=params)


def _write(store: Store, shape: Shape, drawn: Iterable[Slice]) -> None:
    write_shard(store, shape, 0, drawn, tables=("nodes", "verdicts"))


def _without(tasks: list[int], some: Slice) -> Slice:
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


def _chunks(store: Store, *tables: str) -> dict[bytes, int]:
    """The chunks of all files of some tables."""
    found = {}
    for table in tables:
        for at in store.places(table):
            found |= chunks(at.path(store.root, table).read_bytes())
    return found
