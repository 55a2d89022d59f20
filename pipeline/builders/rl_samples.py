"""Rows for online RL: each attempt with the log-probabilities it was sampled at and the credit of its tokens.

Columns in, columns out: all attempts of a batch of trees at once. Knows no method.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.builders.packing import spans
from pipeline.store.paths import context_paths
from schemas import RlSamples
from schemas.base import column_types

NODE_COLUMNS = (
    "task",
    "tree",
    "node",
    "parent",
    "context",
    "depth",
    "origin",
    "token_ids",
    "token_count",
    "logprobs",
    "policy",
    "finish",
)
CREDIT_COLUMNS = ("task", "tree", "node", "advantage", "weight", "mask", "token_advantages")
SHARED = ("branches", "once")
"""What attempts have in common is trained in each of them, so that its advantage counts once a branch; or in the first
of them alone, as methods have it that credit each edge of a tree once (SPO-tree, TreeRL)."""


def rl_rows(
    nodes: pl.DataFrame,
    credit: pl.DataFrame,
    verdicts: pl.DataFrame,
    *,
    suite: str,
    method: str,
    shared: str = "branches",
) -> pl.DataFrame:
    """Rows of the rl_samples table: a row an ended attempt that the method credits, in the order of the nodes.

    A token is trained where it was sampled (a distilled retry's in another context) and its advantage is known and
    not masked; its advantage is the node's, or its own of a token list, times the node's weight. Attempts without a
    trained token are left out.

    Args:
        nodes: `NODE_COLUMNS` of whole trees.
        credit: `CREDIT_COLUMNS` of one method; other nodes are unknown to it.
        verdicts: `tree`, `node`, `reward`, at most one row a node.
        suite: of the tasks.
        method: key of METHODS.
        shared: word of SHARED.

    Raises:
        ValueError: a parent or a context is missing.
    """
    nodes = nodes.sort("tree", "node")
    known = credit.select("tree", "node", "advantage", "weight", "mask", "token_advantages", seen=True)
    at = nodes.select("tree", "node").join(known, on=["tree", "node"], how="left", maintain_order="left")
    leaves = np.flatnonzero((nodes["finish"].is_not_null() & at["seen"].fill_null(False)).to_numpy())
    paths = context_paths(nodes, leaves)
    lengths = nodes["token_count"].to_numpy().astype(np.int64)
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    logprobs = _flat(nodes["logprobs"], lengths, np.full(len(nodes), np.nan))
    weight = at["weight"].cast(pl.Float64).fill_null(1.0).to_numpy()
    kept = at["mask"].fill_null(True).to_numpy()
    own = at["advantage"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    advantages = _flat(at["token_advantages"], lengths, own) * np.repeat(weight, lengths)

    answer = np.ones(len(paths.nodes), bool)
    answer[paths.offsets[:-1]] = False
    steps, members = paths.nodes[answer], paths.members()[answer]
    places, sizes = spans(starts[steps], lengths[steps]), lengths[steps]
    trained = np.repeat(kept[steps], sizes) & ~np.isnan(logprobs[places]) & ~np.isnan(advantages[places])
    if shared == "once":
        first = np.zeros(len(steps), bool)
        first[np.unique(steps, return_index=True)[1]] = True
        trained &= np.repeat(first, sizes)
    counts = np.bincount(members, weights=sizes, minlength=len(leaves)).astype(np.int64)
    some = np.bincount(np.repeat(members, sizes), weights=trained, minlength=len(leaves)) > 0
    here = np.repeat(some, counts)
    places, trained, counts, leaves = places[here], trained[here], counts[some], leaves[some]

    token_ids = nodes["token_ids"].explode().drop_nulls().to_numpy()
    prompts = paths.nodes[paths.offsets[:-1]][some]
    found = nodes[leaves].join(
        verdicts.select("tree", "node", "reward"), on=["tree", "node"], how="left", maintain_order="left"
    )
    frame = found.select(
        "task",
        pl.format("{}/{}/{}", "tree", pl.lit(method), "node").alias("row"),
        "tree",
        "node",
        "policy",
        "reward",
        suite=pl.lit(suite),
        method=pl.lit(method),
        record=pl.when(pl.col("origin") == "retry").then(pl.lit("distilled_retry")),
        group=pl.lit(None),
    ).with_columns(
        prompt_ids=_lists(token_ids[spans(starts[prompts], lengths[prompts])], lengths[prompts]),
        answer_ids=_lists(token_ids[places], counts),
        loss_mask=_lists(trained, counts),
        logprobs=_lists(logprobs[places], counts),
        advantages=_lists(np.where(trained, advantages[places], np.nan), counts),
    )
    types = column_types(RlSamples)
    return frame.select(*types).cast(types).sort("task", "tree", "node")


def _flat(lists: pl.Series, lengths: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """`[T]` float64: the lists one after the other; for a null list so often what stands otherwise; null is NaN."""
    values = np.repeat(otherwise, lengths)
    present = lists.is_not_null().to_numpy()
    inner = lists.drop_nulls().explode(empty_as_null=False).cast(pl.Float64).fill_null(np.nan).to_numpy()
    values[np.repeat(present, lengths)] = inner
    return values


def _lists(values: np.ndarray, lengths: np.ndarray) -> pl.Series:
    """Lists of so many values each; NaN becomes null."""
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    inner = pa.array(values, from_pandas=values.dtype.kind == "f")
    return pl.Series(pa.LargeListArray.from_arrays(offsets, inner))
