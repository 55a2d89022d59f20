"""The trees of a shard as judges are shown them."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from pipeline.judges.cases import COLUMNS, Case, cases_of
from pipeline.stages.earlier import GENERATING, JUDGING, ROLLOUTS
from pipeline.stages.verdicts import present
from pipeline.stages.work import Work


def read_cases(work: Work, shard: str, tasks: pl.DataFrame, *, per_task: int) -> Iterator[Case]:
    """The plain attempts of a shard, tree by tree.

    Args:
        tasks: rows of the shard's tasks. per_task: attempts of each; 0: all.
    """
    nodes = work.store.read("nodes", [work.place(ROLLOUTS, shard)], columns=COLUMNS)
    verdicts = present(work.store.read("verdicts", [work.place(stage, shard) for stage in (*GENERATING, JUDGING)]))
    by_task = {row["task"]: row for row in tasks.iter_rows(named=True)}
    return cases_of(nodes, verdicts, by_task, per_task=per_task)
