"""Bench `forest`: how much a tree saves over its paths; keeps the forest on which the other benches measure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from pipeline.bench.draw import ROUND, Counts, Slice, draw_slice, slice_tasks, stages_of, task_name
from pipeline.bench.metric import Metric, Params, figure, ratio
from pipeline.bench.shape import Shape, Sizes
from pipeline.bench.vary import grow
from pipeline.store.batches import ahead
from pipeline.store.layout import EVERY_ROUND, Place
from pipeline.store.store import Store
from schemas import Tasks
from schemas.base import column_types

SUITE = "bench"
TRIED_TASKS = 200
"""By which the size of a forest is told beforehand."""
DRAWN_TABLES = ("nodes", "verdicts", "variants")
VARYING = ("retries", "interventions")
"""Stages that leave variants."""


class Drawn(NamedTuple):
    """A store with a forest in it."""

    store: Store
    counts: Counts


@dataclass(frozen=True)
class StoredForest:
    """A forest in a store of its own under `root`, drawn when first asked for; with the sizes of what else is drawn."""

    root: Path
    shape: Shape
    sizes: Sizes = field(default_factory=Sizes)

    @cached_property
    def drawn(self) -> Drawn:
        """The store and what is in it."""
        store = Store(self.root / "forest")
        return Drawn(store, write_forest(store, self.shape))

    @property
    def store(self) -> Store:
        """The store, with the forest's tables in it."""
        return self.drawn.store

    @cached_property
    def large(self) -> StoredForest:
        """A forest alike, of as many nodes as `sizes` says."""
        return StoredForest(self.root / "large", sized(self.shape, self.sizes.nodes), self.sizes)

    def read(self, table: str, *, columns: list[str] | None = None) -> pl.DataFrame:
        """A table of the forest, whole."""
        return self.store.read(table, self.store.places(table), columns=columns)


def write_forest(store: Store, shape: Shape) -> Counts:
    """Draw a forest into a store, a file a table, stage and shard; holds a slice at a time."""
    counts = [write_shard(store, shape, number, slices(shape, *tasks)) for number, tasks in enumerate(shards_of(shape))]
    return added(counts)


def write_shard(
    store: Store, shape: Shape, number: int, drawn: Iterable[Slice], *, tables: Sequence[str] = DRAWN_TABLES
) -> Counts:
    """Write a shard of every stage; the slices in the order of their tasks."""
    counts = []
    with ExitStack() as files:
        out = {
            (stage, table): files.enter_context(store.writer(table, place(stage, number), inputs={}))
            for stage in stages_of(shape)
            for table in tables
            if table != "variants" or stage in VARYING
        }
        for slice_ in ahead(iter(drawn)):
            for (stage, table), file in out.items():
                file.add(slice_.rows[stage][table])
            counts.append(slice_.counts)
    return added(counts)


def write_tasks(store: Store, number: int, tasks: Iterable[int]) -> None:
    """Write a shard's tasks, which nobody asks: all they have is their names."""
    same = {"suite": SUITE, "band": "a", "split": "train", "question": "?", "answer": "1", "info": "{}"}
    same |= {"verifier": "reasoning_gym", "difficulty": 0.0}
    rows = [dict.fromkeys(column_types(Tasks)) | same | {"task": task_name(task)} for task in tasks]
    frame = pl.DataFrame(rows, schema=column_types(Tasks), orient="row")
    store.write("tasks", frame, replace(place("tasks", number), round=EVERY_ROUND), inputs={})


def added(counts: Iterable[Counts]) -> Counts:
    """What has been drawn in all."""
    return Counts(*map(sum, zip(*counts, strict=True)))


def slices(shape: Shape, first: int, last: int) -> Iterator[Slice]:
    """The tasks from one to before another, some at a time."""
    for start, count in _cut(shape, first, last):
        yield draw_slice(shape, start, count)


def slices_of(shape: Shape) -> Iterator[tuple[int, int]]:
    """The first task of each slice of a stored forest, and how many it has."""
    for tasks in shards_of(shape):
        yield from _cut(shape, *tasks)


def slice_of(shape: Shape, task: int) -> tuple[int, int]:
    """The slice of a stored forest that holds a task."""
    first = task - task % shape.shard_tasks
    start = task - (task - first) % slice_tasks(shape)
    return start, min(slice_tasks(shape), min(first + shape.shard_tasks, shape.tasks) - start)


def _cut(shape: Shape, first: int, last: int) -> Iterator[tuple[int, int]]:
    size = slice_tasks(shape)
    for start in range(first, last, size):
        yield start, min(size, last - start)


def shards_of(shape: Shape) -> list[tuple[int, int]]:
    """The first task of each shard, and the one after its last."""
    return [(first, min(first + shape.shard_tasks, shape.tasks)) for first in range(0, shape.tasks, shape.shard_tasks)]


def place(stage: str, shard: int) -> Place:
    """Where a shard of the drawn suite lies."""
    return Place(SUITE, ROUND, stage, f"train-{shard:03d}")


def described(shape: Shape, counts: Counts) -> Params:
    """A forest as metrics state it."""
    return {**shape.params(), "leaves": counts.leaves, "judged": counts.judged, "copied_tokens": counts.copied}


def sized(shape: Shape, nodes: int) -> Shape:
    """The shape with as many tasks as have about so many nodes."""
    trees = grow(shape, np.random.default_rng(shape.seed), TRIED_TASKS).trees
    return replace(shape, tasks=max(1, round(nodes / (len(trees.node) / TRIED_TASKS))))


def measure(forest: StoredForest) -> Iterator[Metric]:
    """Nodes, tokens, and tokens of all paths from a context's prompt to a leaf over the tokens of all nodes."""
    counts = forest.drawn.counts
    params = described(forest.shape, counts)
    yield ratio("forest.path_unique_ratio", counts.path_tokens, counts.tokens, unit="x", params=params)
    yield figure("forest.nodes", counts.nodes, unit="nodes", params=params)
    yield figure("forest.unique_tokens", counts.tokens, unit="tokens", params=params)
