"""Bench `store`: what a token costs on the disk and in time, beside JSON lines of whole paths.

Writing includes validation, sorting, the digest and the disk's fsync; reading includes sorting. The file just
written is read from the system's cache.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.bench.clock import median_seconds
from pipeline.bench.forest import StoredForest, described, place, slices
from pipeline.bench.metric import Metric, Params, ratio
from pipeline.bench.reupload import measure_reupload
from pipeline.credit.columns import Paths
from pipeline.store.paths import context_paths, path_values
from pipeline.store.store import Store

REPEATS = 3
TIMED_TASKS = 400
"""At most, of the rows that are written and read for the rates."""
BATCH_ROWS = 5_000
LEVEL = 3
"""Of zstd, the store's and that of the compressed JSON lines."""
IDS, LOGPROBS, TEXT = "token_ids", "logprobs", "text"


class Flattened(NamedTuple):
    """JSON lines of all paths, and what they were made from. path_tokens: in the lines; tokens: in the nodes."""

    plain: int
    packed: int
    path_tokens: int
    tokens: int


def measure(forest: StoredForest) -> Iterator[Metric]:
    """Bytes a unique token by column; JSON lines over them, plain and packed; what is kept once; rates; uploads."""
    counts, store = forest.drawn.counts, forest.store
    params = {**described(forest.shape, counts), "rows": counts.nodes}
    places = store.places("nodes")
    sizes = column_bytes([at.path(store.root, "nodes") for at in places])
    whole = sum(sizes.values())
    bare = whole - sizes[TEXT]
    for columns, size in (
        ("all", whole),
        ("all but text", bare),
        (IDS, sizes[IDS]),
        (LOGPROBS, sizes[LOGPROBS]),
        ("tree: all others, footers too", bare - sizes[IDS] - sizes[LOGPROBS]),
    ):
        of = {"columns": columns, "files": len(places), **params}
        yield ratio("store.bytes_per_unique_token", size, counts.tokens, unit="B/token", params=of)
    lines = flatten(store)
    for columns, size in (("all", whole), ("all but text", bare)):
        for packing, written in (("none", lines.plain), (f"zstd {LEVEL}", lines.packed)):
            of = {"columns": columns, "jsonl": packing, **params}
            yield ratio("store.ratio_to_jsonl", written, size, unit="x", params=of)
    drawn = {"drawn_path_tokens": counts.path_tokens, "drawn_tokens": counts.tokens, **params}
    yield ratio("store.dedup", lines.path_tokens, lines.tokens, unit="x", params=drawn)
    yield from _rates(forest, params)
    yield from measure_reupload(forest)


def column_bytes(files: Sequence[Path]) -> dict[str, int]:
    """Bytes of Parquet files by column, as encoded; what belongs to none, footers and indexes, under ''."""
    sizes: dict[str, int] = {"": 0}
    for file in files:
        footer = pq.read_metadata(file)
        sizes[""] += file.stat().st_size
        for group in range(footer.num_row_groups):
            for number in range(footer.num_columns):
                chunk = footer.row_group(group).column(number)
                name = chunk.path_in_schema.split(".")[0]
                sizes[name] = sizes.get(name, 0) + chunk.total_compressed_size
                sizes[""] -= chunk.total_compressed_size
    return sizes


def flatten(store: Store) -> Flattened:
    """All paths of a store as JSON lines, some tasks at a time: how large as they are, and compressed.

    Log-probabilities have the digits that Python's json gives a float, which is double; there are no blanks.
    """
    done, codec = Flattened(0, 0, 0, 0), pa.Codec("zstd", compression_level=LEVEL)
    for batch in store.batches("nodes", store.places("nodes"), rows=BATCH_ROWS):
        nodes = pl.from_arrow(batch).sort("tree", "node")
        lines, frame = io.BytesIO(), paths_frame(nodes, answers(nodes))
        frame.with_columns(pl.col(LOGPROBS).cast(pl.List(pl.Float64))).write_ndjson(lines)
        some = Flattened(
            lines.tell(),
            codec.compress(lines.getvalue()).size,
            int(frame.select(pl.col("prompt_ids", "answer_ids").list.len().sum()).sum_horizontal()[0]),
            int(nodes[IDS].list.len().sum()),
        )
        done = Flattened(*(a + b for a, b in zip(done, some, strict=True)))
    return done


def answers(nodes: pl.DataFrame) -> np.ndarray:
    """Rows of the ends of attempts at the task itself."""
    return (nodes["finish"].is_not_null() & (nodes["kind"] == "step")).arg_true().to_numpy()


def paths_frame(nodes: pl.DataFrame, leaves: np.ndarray) -> pl.DataFrame:
    """Whole paths, a row a leaf, as trainers keep rollouts: the answer's log-probabilities, prompt and answer as text.

    Args:
        nodes: of whole trees, sorted by tree and node.
        leaves: `[M]` rows.
    """
    paths = context_paths(nodes, leaves)
    prompts, first = paths.nodes[paths.offsets[:-1]], np.zeros(len(paths.nodes), dtype=bool)
    first[paths.offsets[:-1]] = True
    steps = Paths(paths.nodes[~first], paths.offsets - np.arange(len(paths.offsets)), paths.count)
    texts = nodes[TEXT].rechunk().to_arrow().take(pa.array(steps.nodes))
    texts = pa.ListArray.from_arrays(pa.array(steps.offsets, pa.int32()), texts.cast(pa.string()))
    return nodes[leaves].select(
        "task",
        "tree",
        "node",
        "policy",
        "request",
        "finish",
        prompt=nodes[prompts][TEXT],
        answer=pl.Series(pc.binary_join(texts, "")),
        prompt_ids=nodes[prompts][IDS],
        answer_ids=pl.Series(path_values(nodes, steps, IDS)),
        logprobs=pl.Series(path_values(nodes, steps, LOGPROBS)),
    )


def _rates(forest: StoredForest, params: Params) -> Iterator[Metric]:
    """Of one shard with the nodes of all stages in it."""
    store, tasks = Store(forest.root / "timed"), min(TIMED_TASKS, forest.shape.tasks)
    rows = [rows["nodes"] for some in slices(forest.shape, 0, tasks) for rows in some.rows.values()]
    nodes, at = pl.concat(rows).sort("task", "tree", "node"), place("rollouts", 0)
    write, read = median_seconds(
        lambda: store.write("nodes", nodes, at, inputs={}), lambda: store.read("nodes", [at]), repeats=REPEATS
    )
    timed = {**params, "timed_tasks": tasks, "repeats": REPEATS}
    tokens = int(nodes["token_count"].sum())
    yield ratio("store.write_tokens_per_s", tokens, write, unit="tokens/s", params=timed)
    yield ratio("store.read_tokens_per_s", tokens, read, unit="tokens/s", params=timed)
