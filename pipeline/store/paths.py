"""Whole contexts of many leaves at once, from rows of the nodes table. Reads no file.

A context is what a policy saw and wrote: the nodes from a leaf's `context` down to the leaf. All leaves go up together,
a depth at a time.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.credit.columns import Paths
from pipeline.credit.tables import parent_rows, trees_from_nodes

COLUMNS = ("tree", "node", "parent", "context", "depth", "token_ids")
"""What of the nodes table token ids are put together from."""
_UNJUDGED = pl.DataFrame(schema={"tree": pl.String, "node": pl.Int32, "reward": pl.Float32})


def context_paths(nodes: pl.DataFrame, leaves: np.ndarray) -> Paths:
    """The nodes of each leaf's context, the prompt first.

    Args:
        nodes: `COLUMNS` of whole trees, sorted by tree and node.
        leaves: `[M]` rows of `nodes`, in any order; any node may stand for a leaf.

    Raises:
        ValueError: a parent or a context is missing, or the nodes are not sorted.
    """
    leaves = np.asarray(leaves, dtype=np.int64)
    contexts = parent_rows(nodes, column="context")[leaves]
    trees = trees_from_nodes(nodes.select("tree", "node", "parent", "depth", "token_ids"), _UNJUDGED)
    below_root = trees.paths(leaves)
    members = below_root.members()
    inside = trees.depth[below_root.nodes] > trees.depth[contexts][members]
    lengths = 1 + np.bincount(members[inside], minlength=len(leaves))
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    prompt = np.zeros(offsets[-1], dtype=bool)
    prompt[offsets[:-1]] = True
    rows = np.empty(offsets[-1], dtype=np.int64)
    rows[prompt], rows[~prompt] = contexts, below_root.nodes[inside]
    return Paths(nodes=rows, offsets=offsets, count=len(nodes))


def path_token_ids(nodes: pl.DataFrame, leaves: np.ndarray) -> pa.LargeListArray:
    """`[M]` lists of int32: the token ids of each leaf's whole context, prompt included.

    Args:
        nodes: `COLUMNS` of whole trees, sorted by tree and node.
        leaves: `[M]` rows of `nodes`, in any order.

    Raises:
        ValueError: a parent or a context is missing, or the nodes are not sorted.
    """
    return path_values(nodes, context_paths(nodes, leaves), "token_ids")


def path_logprobs(nodes: pl.DataFrame, leaves: np.ndarray) -> pa.LargeListArray:
    """`[M]` lists of float32, as long as `path_token_ids`. Null inside: the token was not sampled.

    Args:
        nodes: `COLUMNS` and `logprobs` of whole trees, sorted by tree and node.
        leaves: `[M]` rows of `nodes`, in any order.

    Raises:
        ValueError: a parent or a context is missing, or the nodes are not sorted.
    """
    return path_values(nodes, context_paths(nodes, leaves), "logprobs")


def path_values(nodes: pl.DataFrame, paths: Paths, column: str) -> pa.LargeListArray:
    """`[M]` lists: what the nodes of each path hold in a list column, a value a token, one node after the other.

    Args:
        nodes: `token_ids` and the column.
        paths: through these very rows.
        column: name of a list column as long as `token_ids`; where a node's list is null, so is each of its values.
    """
    lengths = nodes["token_ids"].list.len().cast(pl.Int64).to_numpy()[paths.nodes]
    lists = nodes[column].rechunk().to_arrow().take(pa.array(paths.nodes))
    values, offsets = lists.flatten(), np.concatenate(([0], np.cumsum(lengths)))
    if lists.null_count:
        known = np.repeat(lists.is_valid().to_numpy(zero_copy_only=False), lengths)
        values = values.take(pa.array(np.cumsum(known) - 1, mask=~known))
    return pa.LargeListArray.from_arrays(offsets[paths.offsets], values)
