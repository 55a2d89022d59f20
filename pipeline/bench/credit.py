"""Bench `credit`: how fast, how exact and how large in memory the methods are, each beside a plain loop.

Measured from arrays to arrays: reading the store and making the rows of the credit table are not in the times.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import polars as pl

from pipeline.bench.clock import median_seconds
from pipeline.bench.forest import StoredForest
from pipeline.bench.metric import Metric, Params, figure, ratio
from pipeline.bench.row_loops import ROW_LOOPS, Row, RowCredit
from pipeline.credit import METHODS, in_every_round, labelled
from pipeline.credit.columns import CreditColumns, Method, Trees
from pipeline.credit.tables import TREE_COLUMNS, columns_for, seen_by, trees_from_nodes

COLUMNS = [*TREE_COLUMNS, "token_ids"]
SAMPLES = 8
"""Continuations by which a step is labelled, for methods that need labels; drawn, since a forest has none."""
REPEATS = 5
LOOP_REPEATS = 3
SAMPLE_TREES = 400
"""The plain loop sees no more trees than this, and the method beside it the same ones."""
MIB = 2**20


def measure(forest: StoredForest) -> Iterator[Metric]:
    """Rows a second, over the loop's; largest difference from the loop's answer; peak memory. All by method."""
    verdicts = forest.read("verdicts")
    for name, method in METHODS.items():
        if not in_every_round(method) and forest.shape.repeated_states is None:
            continue  # the forest has no environment
        columns = list(dict.fromkeys((*columns_for(method), *COLUMNS)))
        seen = forest.read("nodes", columns=columns).filter(seen_by(method)).sort("tree", "node")
        labels = _labels(seen, forest.shape.seed) if labelled(method) else None
        yield from _measure_method(name, method, seen, verdicts, labels, {"method": name, **forest.shape.params()})


def _labels(nodes: pl.DataFrame, seed: int) -> pl.DataFrame:
    """A label for every step."""
    successes = np.random.default_rng([seed, SAMPLES]).integers(0, SAMPLES + 1, len(nodes))
    return nodes.select("tree", "node", soft=pl.Series(successes / SAMPLES), hard=pl.Series(successes > 0))


def _measure_method(
    name: str,
    method: Method,
    nodes: pl.DataFrame,
    verdicts: pl.DataFrame,
    labels: pl.DataFrame | None,
    params: Params,
) -> Iterator[Metric]:
    trees, options = trees_from_nodes(nodes, verdicts, needs=method.needs, labels=labels), method.params()
    rows = len(trees.parent)
    (seconds,) = median_seconds(lambda: method.function(trees, options), repeats=REPEATS)
    size = {"rows": rows, "tokens": int(trees.token_offsets[-1])}
    yield ratio("credit.rows_per_s", rows, seconds, unit="rows/s", params={**params, **size, "repeats": REPEATS})
    if name in ROW_LOOPS:
        yield from _beside_loop(name, method, nodes, verdicts, params)
    yield ratio("credit.peak_mib", _peak_bytes(method, trees), MIB, unit="MiB", params={**params, **size})


def _beside_loop(
    name: str, method: Method, nodes: pl.DataFrame, verdicts: pl.DataFrame, params: Params
) -> Iterator[Metric]:
    """The same trees through the method and through the loop, in turns."""
    some = nodes["tree"].unique(maintain_order=True).head(SAMPLE_TREES)
    sample = trees_from_nodes(nodes.filter(pl.col("tree").is_in(some.implode())), verdicts)
    listed, loop, options = plain_rows(sample), ROW_LOOPS[name], method.params()
    ours, theirs = median_seconds(lambda: method.function(sample, options), lambda: loop(listed), repeats=LOOP_REPEATS)
    size = {"sample_trees": len(some), "rows": len(listed), "tokens": len(sample.tokens)}
    params = {**params, **size}
    yield ratio(
        "credit.ratio_to_row_loop",
        len(listed) / ours,
        len(listed) / theirs,
        unit="x",
        params={**params, "repeats": LOOP_REPEATS},
    )
    error = largest_difference(method.function(sample, options), loop(listed))
    yield figure("credit.max_abs_error", error, unit="credit", params=params)


def plain_rows(trees: Trees) -> list[Row]:
    """The nodes as plain Python objects."""
    reward = [None if np.isnan(value) else value for value in trees.reward.tolist()]
    tokens, offsets = trees.tokens.tolist(), trees.token_offsets.tolist()
    return [
        Row(parent, tree, reward[at], tokens[offsets[at] : offsets[at + 1]])
        for at, (parent, tree) in enumerate(zip(trees.parent.tolist(), trees.tree.tolist(), strict=True))
    ]


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
    """Most memory that a pass holds at once, its answer included, the trees not."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        method.function(trees, method.params())
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
