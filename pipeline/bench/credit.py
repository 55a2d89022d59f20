"""Bench `credit`: how fast, how exact and how large in memory the methods are, each beside a plain loop.

Measured from arrays to arrays: reading the store and making the rows of the credit table are not in the times, but for
one method that is timed with the read besides.
A method is held against its loop on as many trees as the loop does in a moment: those of the forest over again, or
flat groups for methods that see nothing else.
"""

from __future__ import annotations

import gc
import math
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise, repeat
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.bench.clock import median_seconds
from pipeline.bench.credit_inputs import first_trees, flat_groups, read_trees, with_needs
from pipeline.bench.forest import StoredForest
from pipeline.bench.metric import Metric, Params, figure, ratio
from pipeline.bench.row_loops import ROW_LOOPS, Row, RowCredit
from pipeline.credit import METHODS
from pipeline.credit.columns import CreditColumns, Method, Trees
from pipeline.credit.inputs import INPUTS, TOKEN
from pipeline.credit.tables import FEW_WORDS, TREE_COLUMNS, columns_for, seen_by, trees_from_nodes
from pipeline.errors import BadTable
from pipeline.store.batches import beside
from pipeline.store.layout import Place

COLUMNS = [*TREE_COLUMNS, "token_ids"]
REPEATS = 5
FIRST_TREES, LOOP_SECONDS = 400, 0.25
"""The loop sees so many trees at first, then as many as it takes about so long for."""
GROUP = 8
"""Answers of a flat group."""
MIB = 2**20


class Large(NamedTuple):
    """On how much a method is timed besides. per: rows or tokens, at least `size` of them."""

    per: str
    size: int
    repeats: int = REPEATS


FLAT = ("grpo", "dr_grpo", "rloo", "opo")
"""Methods that see nothing of a tree but its answers."""
WITH_READ = "spo_tree"
"""The method that is timed from the store on, too: on the larger forest of the bench."""
VERDICT_COLUMNS = ("task", "tree", "node", "reward")
LARGE: dict[str, Large] = {
    **dict.fromkeys(FLAT, Large("rows", 1_125_000)),
    "spo_tree": Large("rows", 10_000_000, repeats=1),
    "tempo": Large("tokens", 2_000_000),
    "gigpo": Large("rows", 1_000_000, repeats=3),
}


def measure(forest: StoredForest) -> Iterator[Metric]:
    """Rows a second, over the loop's; largest difference from the loop's answer; peak memory. All by method."""
    seed = forest.shape.seed
    for name, method in METHODS.items():
        read = read_trees(forest, method)
        trees, params = with_needs(read, method, seed=seed), {"method": name, **forest.shape.params()}
        try:
            method.function(trees, method.params())
        except BadTable:
            continue  # what is drawn is of the right kind and no more
        yield from _measure_method(method, trees, {**params, **_sizes(trees)})
        if name == WITH_READ:
            yield from _measure_with_read(forest.large, method, name)
        if name in FLAT:
            source, params = _flat_source(seed), {"method": name, "group": GROUP, "seed": seed}
        else:
            source = _forest_source(read, method, seed)
        if name in ROW_LOOPS:
            yield from _beside_loop(method, ROW_LOOPS[name], source, params)
        if name in LARGE:
            yield _measure_large(method, LARGE[name], source, params)


def _flat_source(seed: int) -> Callable[[int], Trees]:
    return lambda count: flat_groups(count, size=GROUP, seed=seed)


def _forest_source(read: Trees, method: Method, seed: int) -> Callable[[int], Trees]:
    return lambda count: with_needs(first_trees(read, count), method, seed=seed)


def _measure_method(method: Method, trees: Trees, params: Params) -> Iterator[Metric]:
    (seconds,) = median_seconds(lambda: method.function(trees, method.params()), repeats=REPEATS)
    rows = len(trees.parent)
    yield ratio("credit.rows_per_s", rows, seconds, unit="rows/s", params={**params, "repeats": REPEATS})
    yield ratio("credit.peak_mib", _peak_bytes(method, trees), MIB, unit="MiB", params=params)


def _measure_with_read(forest: StoredForest, method: Method, name: str) -> Iterator[Metric]:
    """Rows a second from the store to values, in batches of whole tasks; how much longer that takes than to decode what
    is read for it, file after file."""
    store, columns = forest.store, {"nodes": columns_for(method), "verdicts": VERDICT_COLUMNS}
    places = {table: store.places(table) for table in columns}
    rows = 0

    def read(table: str, places: Sequence[Place]) -> Iterator[pa.Table]:
        return store.batches(table, places, columns=columns[table], dictionary=FEW_WORDS)

    def annotate() -> None:
        nonlocal rows
        rows = 0
        for batch, (said,) in beside(*(read(table, places[table]) for table in columns)):
            seen = pl.DataFrame(batch).filter(seen_by(method))
            method.function(trees_from_nodes(seen, pl.DataFrame(said), needs=method.needs), method.params())
            rows += len(seen)

    def decode() -> None:
        for table in columns:
            for place in places[table]:
                deque(read(table, [place]), maxlen=0)

    seconds, decoding = median_seconds(annotate, decode, repeats=3)
    params = {"method": name, **forest.shape.params(), "rows": rows, "files": sum(map(len, places.values()))}
    params["repeats"] = 3
    yield ratio("credit.read_rows_per_s", rows, seconds, unit="rows/s", params=params)
    yield ratio("credit.read_over_decode", seconds, decoding, unit="x", params=params)


def _beside_loop(
    method: Method, loop: Callable[[list[Row]], RowCredit], source: Callable[[int], Trees], params: Params
) -> Iterator[Metric]:
    """The same trees through the method and through the loop."""
    with _collector_off():
        _, seconds = _timed(loop, plain_rows(source(FIRST_TREES)))
        count = FIRST_TREES * 2 ** max(0, round(math.log2(LOOP_SECONDS / seconds)))
        trees = source(count)
        defined, seconds = _timed(loop, plain_rows(trees))
    (ours,) = median_seconds(lambda: method.function(trees, method.params()), repeats=REPEATS)
    params = {**params, "sample_trees": count, **_sizes(trees)}
    rows, repeats = len(trees.parent), {"repeats": REPEATS}
    yield ratio("credit.ratio_to_row_loop", rows / ours, rows / seconds, unit="x", params={**params, **repeats})
    error = largest_difference(method.function(trees, method.params()), defined)
    yield figure("credit.max_abs_error", error, unit="credit", params=params)


def _measure_large(method: Method, large: Large, source: Callable[[int], Trees], params: Params) -> Metric:
    """Rows or tokens a second of many trees."""
    few = _sizes(source(FIRST_TREES))[large.per]
    trees = source(math.ceil(FIRST_TREES * large.size / few))
    sizes = _sizes(trees)
    (seconds,) = median_seconds(lambda: method.function(trees, method.params()), repeats=large.repeats)
    return ratio(
        f"credit.large_{large.per}_per_s",
        sizes[large.per],
        seconds,
        unit=f"{large.per}/s",
        params={**params, **sizes, "repeats": large.repeats},
    )


def _sizes(trees: Trees) -> Params:
    return {"rows": len(trees.parent), "tokens": int(trees.token_offsets[-1])}


@contextmanager
def _collector_off() -> Iterator[None]:
    """Keep the collector of cycles from walking all rows again and again, which would be charged to the loop."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _timed(loop: Callable[[list[Row]], RowCredit], rows: list[Row]) -> tuple[RowCredit, float]:
    start = time.perf_counter()
    return loop(rows), time.perf_counter() - start


def plain_rows(trees: Trees) -> list[Row]:
    """The nodes as plain Python objects; tokens that were not read are numbers from 0 on."""
    offsets = trees.token_offsets.tolist()
    spans = list(pairwise(offsets))
    tokens = [range(end - start) for start, end in spans]
    if trees.tokens is not None:
        flat = trees.tokens.tolist()
        tokens = [flat[start:end] for start, end in spans]
    columns = {"parent": trees.parent.tolist(), "tree": trees.tree.tolist(), "reward": _nullable(trees.reward)}
    columns |= {"tokens": tokens}
    for name in set(trees.given) & set(Row._fields):
        values = _nullable(trees.given[name])
        columns[name] = [values[start:end] for start, end in spans] if INPUTS[name].per == TOKEN else values
    fields = [columns.get(name, repeat(Row._field_defaults.get(name))) for name in Row._fields]
    return list(map(Row, *fields))


def _nullable(values: np.ndarray | pl.Series) -> list:
    """None for NaN and for codes below 0."""
    if isinstance(values, pl.Series):
        return values.to_list()
    if values.dtype.kind == "f":
        return [None if value != value else value for value in values.tolist()]
    return [None if value < 0 else value for value in values.tolist()]


def largest_difference(found: CreditColumns, defined: RowCredit) -> float:
    """Largest difference over all numbers of all columns; a mask counts as 0 and 1.

    Raises:
        ValueError: one has a column, or knows a number, that the other has or knows not.
    """
    largest = 0.0
    for column, expected in defined._asdict().items():
        values = getattr(found, column)
        if (values is None) != (expected is None):
            raise ValueError(f"column {column} is in only one of the method's answer and the loop's")
        if values is None:
            continue
        flat = [step for steps in expected for step in steps] if column == "token_advantages" else expected
        numbers = np.array(flat, dtype=np.float64)
        known = ~np.isnan(numbers)
        unlike = np.flatnonzero(known == np.isnan(values.astype(np.float64)))
        if len(unlike):
            at = unlike[0]
            raise ValueError(f"{column} {at} is {values[at]} by the method, {numbers[at]} by the loop")
        largest = max(largest, float(np.abs(values[known] - numbers[known]).max(initial=0.0)))
    return largest


def _peak_bytes(method: Method, trees: Trees) -> int:
    """Most memory that a pass holds at once, its answer included, the trees and what compiled loops hold not."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        method.function(trees, method.params())
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
