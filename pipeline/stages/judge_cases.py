"""The trees of a shard as judges are shown them."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from pipeline.credit.sotopia_rl import RANGES
from pipeline.judges.cases import COLUMNS, Case, cases_of
from pipeline.stages.earlier import GENERATING, JUDGING, ROLLOUTS
from pipeline.stages.verdicts import present
from pipeline.stages.work import Work

GOAL = "score_goal"


def read_cases(work: Work, shard: str, tasks: pl.DataFrame, *, per_task: int, by_goal: bool = False) -> Iterator[Case]:
    """The plain attempts of a shard, tree by tree.

    Args:
        tasks: rows of the shard's tasks. per_task: attempts of each; 0: all. by_goal: in place of its verdict each
            attempt has what a judge gave it for its goal, over the most there is.
    """
    nodes = work.store.read("nodes", [work.place(ROLLOUTS, shard)], columns=COLUMNS)
    verdicts = present(work.store.read("verdicts", [work.place(stage, shard) for stage in (*GENERATING, JUDGING)]))
    if by_goal:
        scores = work.store.read("scores", [work.place(GOAL, shard)]).drop_nulls("value")
        verdicts = scores.select("tree", "node", reward=pl.col("value") / RANGES["goal"][1])
    by_task = {row["task"]: row for row in tasks.iter_rows(named=True)}
    return cases_of(nodes, verdicts, by_task, per_task=per_task)
