"""A round's trees as scoring reads them: whole tasks at a time, with the verdicts on them. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from pipeline.credit.tables import node_rows, reward_rows
from pipeline.stages.earlier import GENERATING, JUDGING
from pipeline.stages.verdicts import present
from pipeline.stages.work import Work
from trainers.scores.contexts import NODE_COLUMNS, Contexts, contexts_of, said, token_lists

BATCH_ROWS = 50_000
_VERDICTS = ("task", "tree", "node", "version", "reward")


class Batch(NamedTuple):
    """Whole tasks. wanted: `[N]` bool, the nodes that are scored."""

    nodes: pl.DataFrame
    contexts: Contexts
    wanted: np.ndarray

    def of_tokens(self, values: np.ndarray, *, text: str | None = None) -> pl.DataFrame:
        """`[T]` numbers of all nodes' tokens as rows of the table of scores, all but the name; text stands at roots."""
        kept = np.flatnonzero(self.wanted)
        keys = self.nodes.select("task", "tree", "node")
        rows = keys[kept].with_columns(token_lists(values, self.contexts.tokens, kept))
        if text is None:
            return rows
        roots = keys.filter(self.nodes["parent"].is_null()).with_columns(text=pl.lit(text))
        return pl.concat([rows, roots], how="diagonal").sort("task", "tree", "node")

    def of_nodes(self, values: np.ndarray) -> pl.DataFrame:
        """`[N]` numbers of nodes as such rows."""
        kept = np.flatnonzero(self.wanted)
        value = pl.Series("value", values[kept], dtype=pl.Float64).fill_nan(None)
        return self.nodes[kept].select("task", "tree", "node").with_columns(value)


def batches(
    work: Work, shards: Sequence[str], *, columns: Sequence[str] = NODE_COLUMNS, rows: int = BATCH_ROWS
) -> Iterator[Batch]:
    """The trees of some shards, some tasks at a time."""
    places = [work.place(stage, shard) for shard in shards for stage in GENERATING]
    for table in work.store.batches("nodes", places, columns=columns, rows=rows):
        nodes = pl.DataFrame(table).sort("task", "tree", "node")
        yield Batch(nodes, contexts_of(nodes), said(nodes))


def verdicts_on(work: Work, shards: Sequence[str], nodes: pl.DataFrame) -> np.ndarray:
    """`[N]` float64 in [0, 1]: the verdicts on nodes of some shards; NaN where none stands."""
    places = [work.place(stage, shard) for shard in shards for stage in (*GENERATING, JUDGING)]
    verdicts = work.store.read("verdicts", places, columns=_VERDICTS)
    judged = present(verdicts.filter(pl.col("task").is_in(nodes["task"].unique().to_list())))
    return reward_rows(nodes, judged, node_rows(nodes))


def right_answers(work: Work, shards: Sequence[str]) -> list[str]:
    """The texts of the answers that were judged right."""
    found = []
    for batch in batches(work, shards, columns=(*NODE_COLUMNS, "text")):
        verdicts, contexts = verdicts_on(work, shards, batch.nodes), batch.contexts
        texts = batch.nodes["text"].to_list()
        for row in np.flatnonzero(verdicts[contexts.leaves] >= 1):
            nodes = contexts.nodes[contexts.offsets[row] + 1 : contexts.offsets[row + 1]]
            found.append("\n".join(texts[node] for node in nodes))
    return found
