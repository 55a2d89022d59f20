"""The contexts of a shard's nodes as rows of tokens, and where in packs of them each node's tokens stand.

numpy and polars alone. Knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.builders.packing import Pack, Rows, as_rows, pack_rows, spans
from pipeline.credit.tables import parent_rows
from pipeline.store.paths import COLUMNS, context_paths, path_values

MAX_TOKENS = 4096
NODE_COLUMNS = (*COLUMNS, "task", "kind", "token_count")
"""Of the nodes that contexts are made from."""


@dataclass(frozen=True, slots=True, eq=False)
class Contexts:
    """`R` rows of tokens in which every node of some trees stands with its own context before it; `E` entries in all.

    rows:    token ids of the contexts, a row each, the prompt first.
    leaves:  `[R]` int64, the last node of each, a row of the nodes.
    trees:   `[R]` int64, numbers of their trees: small trees first, so that packs are of a kind.
    offsets: `[R + 1]` int64, where the entries of each context begin.
    nodes:   `[E]` int64, the nodes of each context, the prompt first.
    starts:  `[E]` int64, where in its row the tokens of each begin.
    own:     `[E]` bool: the context is the one that the node was written in.
    tokens:  `[N + 1]` int64, where the tokens of each node begin in arrays of all nodes' tokens.
    """

    rows: Rows
    leaves: np.ndarray
    trees: np.ndarray
    offsets: np.ndarray
    nodes: np.ndarray
    starts: np.ndarray
    own: np.ndarray
    tokens: np.ndarray

    @property
    def longest(self) -> int:
        """Tokens of the longest context."""
        return int(np.diff(self.rows.offsets).max(initial=1))

    def packs(self, max_tokens: int = MAX_TOKENS) -> list[Pack]:
        """All contexts in packs of about so many tokens; a longer one is a pack of its own."""
        return pack_rows(self.rows, max_tokens=max(max_tokens, self.longest), groups=self.trees)

    def entries_of(self, pack: Pack) -> tuple[np.ndarray, np.ndarray]:
        """`[e]` entries of a pack's contexts, row after row as in the pack, and where in `pack.index` each begins."""
        counts = np.diff(self.offsets)[pack.rows]
        entries = spans(self.offsets[pack.rows], counts)
        return entries, np.repeat(pack.offsets[:-1], counts) + self.starts[entries]

    def find(self, pack: Pack, wanted: np.ndarray) -> Found:
        """The tokens of the wanted nodes that a pack holds in their own context, a node once.

        Args:
            pack: of `packs`.
            wanted: `[N]` bool.
        """
        entries, begins = self.entries_of(pack)
        kept = self.own[entries] & wanted[self.nodes[entries]]
        nodes, first = np.unique(self.nodes[entries[kept]], return_index=True)
        counts = np.diff(self.tokens)[nodes]
        return Found(nodes, pack.index[spans(begins[kept][first], counts)], spans(self.tokens[nodes], counts))


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """nodes: `[n]`, rows of nodes. index: `[t]`, their tokens in the pack. places: `[t]`, among all nodes' tokens."""

    nodes: np.ndarray
    index: np.ndarray
    places: np.ndarray


def contexts_of(nodes: pl.DataFrame) -> Contexts:
    """Lay out the contexts of trees.

    Args:
        nodes: `COLUMNS` of `N` nodes of whole trees, sorted by tree and node.

    Raises:
        ValueError: a parent or a context is missing, or the nodes are not sorted.
    """
    parent, context = parent_rows(nodes), parent_rows(nodes, column="context")
    counts = nodes["token_ids"].list.len().cast(pl.Int64).to_numpy()
    goes_on = np.zeros(len(nodes), bool)
    goes_on[parent[(parent >= 0) & (context[parent] == context)]] = True
    leaves = np.flatnonzero(~goes_on)
    paths = context_paths(nodes, leaves)
    sizes = np.add.reduceat(counts[paths.nodes], paths.offsets[:-1]) if len(leaves) else np.zeros(0, np.int64)
    if not sizes.all():
        leaves = leaves[sizes > 0]
        paths = context_paths(nodes, leaves)
    lengths, rows = counts[paths.nodes], as_rows(path_values(nodes, paths, "token_ids"))
    tree = nodes["tree"].rle_id().to_numpy().astype(np.int64)
    order = np.argsort(np.bincount(tree, counts), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    member = paths.members()
    return Contexts(
        rows=rows,
        leaves=leaves,
        trees=rank[tree[leaves]],
        offsets=np.asarray(paths.offsets, np.int64),
        nodes=np.asarray(paths.nodes, np.int64),
        starts=np.cumsum(lengths) - lengths - rows.offsets[:-1][member],
        own=context[paths.nodes] == context[leaves][member],
        tokens=np.concatenate(([0], np.cumsum(counts))),
    )


def said(nodes: pl.DataFrame) -> np.ndarray:
    """`[N]` bool: nodes with tokens that are no prompt: neither a root nor rendered."""
    return ((nodes["kind"] != "prompt") & nodes["parent"].is_not_null() & (nodes["token_count"] > 0)).to_numpy()


def token_lists(values: np.ndarray, tokens: np.ndarray, kept: np.ndarray) -> pl.Series:
    """A list a node of float32; a NaN becomes null.

    Args:
        values: `[T]`, of all nodes' tokens.
        tokens: `[N + 1]`, where those of each node begin.
        kept: `[n]`, the nodes that get a list.
    """
    counts = np.diff(tokens)[kept]
    flat = values[spans(tokens[kept], counts)].astype(np.float32)
    lists = pa.LargeListArray.from_arrays(np.concatenate(([0], np.cumsum(counts))), pa.array(flat, mask=np.isnan(flat)))
    return pl.Series("token_values", pl.from_arrow(lists), dtype=pl.List(pl.Float32))
