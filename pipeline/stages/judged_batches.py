"""Nodes of a shard and the verdicts that stand on them, some whole tasks at a time: bounded memory for builders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl
import pyarrow as pa

from pipeline.builders.answers import VERDICT_COLUMNS
from pipeline.stages.earlier import GENERATING, JUDGING
from pipeline.stages.verdicts import present
from pipeline.stages.work import Work
from pipeline.store.batches import beside
from schemas import Verdicts
from schemas.base import column_types

BATCH_ROWS = 100_000


def judged_batches(
    work: Work, shard: str, *others: Iterator[pa.RecordBatch], columns: Sequence[str]
) -> Iterator[tuple[pl.DataFrame, ...]]:
    """Columns of the nodes of whole tasks, their verdicts, at most one a node, and their rows of other tables, if any.

    Args:
        others: sorted by task; None stands for a table that has no row of the tasks.
    """
    store, places = work.store, [work.place(stage, shard) for stage in GENERATING]
    nodes = store.batches("nodes", places, columns=columns, rows=BATCH_ROWS)
    judged = [*places, work.place(JUDGING, shard)]
    verdicts = store.batches("verdicts", judged, columns=VERDICT_COLUMNS, rows=BATCH_ROWS)
    empty = pl.DataFrame(schema=column_types(Verdicts)).select(VERDICT_COLUMNS)
    for batch, (said, *more) in beside(nodes, verdicts, *others):
        standing = present(empty if said is None else pl.DataFrame(said))
        # Of verifiers that judged the same leaf the first by name speaks.
        standing = standing.unique(["tree", "node"], keep="first", maintain_order=True)
        yield pl.DataFrame(batch), standing, *more
