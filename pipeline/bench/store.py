"""Bench `store`: what a token costs on the disk and in time, beside JSON lines of whole paths.

Writing includes validation, sorting, the digest and the disk's fsync; reading includes sorting. The file just
written is read from the system's cache.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.bench.clock import median_seconds
from pipeline.bench.forest import PLACE, StoredForest
from pipeline.bench.metric import Metric, Params, ratio
from pipeline.credit.columns import Trees, trees_from_nodes
from pipeline.store.layout import Place
from pipeline.store.store import Store

REPEATS = 3
WITHOUT_TEXT = Place("bench", "r0", "without-text", "train-000")
TREES_AT_ONCE = 20
LEVEL = 3
"""Of zstd, the store's and that of the compressed JSON lines."""


def measure(forest: StoredForest) -> Iterator[Metric]:
    """Bytes a unique token, with and without the text; over those of JSON lines, plain and compressed; rates."""
    nodes, verdicts = forest.read()
    trees = trees_from_nodes(nodes, verdicts)
    tokens = len(trees.tokens)
    params = {**forest.shape.params(), "rows": len(nodes)}
    timed = {**params, "repeats": REPEATS}
    store = Store(forest.root / "timed")
    write, read = median_seconds(
        lambda: store.write("nodes", nodes, PLACE, inputs={}), lambda: store.read("nodes", [PLACE]), repeats=REPEATS
    )
    yield from _sizes(store, nodes, trees, params)
    yield ratio("store.write_tokens_per_s", tokens, write, unit="tokens/s", params=timed)
    yield ratio("store.read_tokens_per_s", tokens, read, unit="tokens/s", params=timed)


def _sizes(store: Store, nodes: pl.DataFrame, trees: Trees, params: Params) -> Iterator[Metric]:
    tokens, written = len(trees.tokens), PLACE.path(store.root, "nodes").stat().st_size
    bare = store.write("nodes", nodes.with_columns(text=pl.lit("")), WITHOUT_TEXT, inputs={}).path.stat().st_size
    for columns, size in (("all", written), ("all but text", bare)):
        yield ratio("store.bytes_per_unique_token", size, tokens, unit="B/token", params={**params, "columns": columns})
    plain, packed = jsonl_bytes(nodes, trees)
    for compression, size in (("none", plain), (f"zstd {LEVEL}", packed)):
        yield ratio("store.ratio_to_jsonl", size, written, unit="x", params={**params, "jsonl": compression})


def jsonl_bytes(nodes: pl.DataFrame, trees: Trees) -> tuple[int, int]:
    """Bytes of JSON lines, a line a leaf with all of its path: as they are, and compressed some trees at a time."""
    plain, packed, codec = 0, 0, pa.Codec("zstd", compression_level=LEVEL)
    leaves = np.flatnonzero(trees.leaves())
    firsts = range(TREES_AT_ONCE, int(trees.tree.max()) + 1, TREES_AT_ONCE)
    for some in np.split(leaves, np.searchsorted(trees.tree[leaves], firsts)):
        lines = io.BytesIO()
        paths_frame(nodes, trees, some).write_ndjson(lines)
        plain += lines.tell()
        packed += codec.compress(lines.getvalue()).size
    return plain, packed


def paths_frame(nodes: pl.DataFrame, trees: Trees, leaves: np.ndarray) -> pl.DataFrame:
    """Whole paths, a row a leaf, as trainers keep rollouts: the answer's log-probabilities, prompt and answer as text.

    Args:
        nodes: row for row those of `trees`.
        trees: `N` nodes.
        leaves: `[M]` rows.
    """
    roots, paths = np.flatnonzero(trees.parent < 0), trees.paths(leaves)
    answers = (
        nodes[paths.nodes]
        .select("token_ids", "logprobs", "text", leaf=paths.members())
        .group_by("leaf", maintain_order=True)
        .agg(pl.col("token_ids", "logprobs").explode(), pl.col("text").str.join(""))
    )
    return nodes[leaves].select(
        "task",
        "tree",
        "node",
        "policy",
        "request",
        "finish",
        prompt=nodes[roots[trees.tree[leaves]]]["text"],
        answer=answers["text"],
        prompt_ids=nodes[roots[trees.tree[leaves]]]["token_ids"],
        answer_ids=answers["token_ids"],
        logprobs=answers["logprobs"],
    )
