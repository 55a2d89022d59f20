"""Stage: right and wrong answers one by one, for KTO; a batch of tasks at a time."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from pipeline.builders.answers import NODE_COLUMNS, judged_answers
from pipeline.builders.unpaired import unpaired_rows
from pipeline.errors import check_counts
from pipeline.report import Report
from pipeline.stages.earlier import judged_from, rollout_shards
from pipeline.stages.judged_batches import judged_batches
from pipeline.stages.work import Shards, Work, inputs

STAGE = TABLE = "unpaired"
VERSION = "1"


@dataclass(frozen=True, slots=True)
class UnpairedConfig:
    """per_label: at most so many right and as many wrong answers of a task, all of them distinct; 0: all. least: reward
    from which on an answer is right. branches: take the branches of trees too, not the plain rollouts alone.
    """

    per_label: int = 4
    least: float = 1.0
    branches: bool = False


def write_unpaired(work: Work, config: UnpairedConfig = UnpairedConfig()) -> Report:
    """Build the rows of the round."""
    check_counts(config, per_label=0)
    shards, made_from = Shards(work, STAGE, (TABLE,)), inputs(VERSION, config=config, separator=work.suite.separator)
    origins = ("sample", "branch") if config.branches else ("sample",)
    for shard, _, said in shards.stale(
        rollout_shards(work, columns=()), lambda shard: {**made_from, **judged_from(work, shard, of=TABLE)}
    ):
        with work.store.writer(TABLE, work.place(STAGE, shard), inputs=said) as out:
            for nodes, verdicts in judged_batches(work, shard, columns=NODE_COLUMNS):
                answers = judged_answers(nodes, verdicts, origins=origins, separator=work.suite.separator)
                out.add(unpaired_rows(answers, suite=work.suite.name, least=config.least, per_label=config.per_label))
    rows = work.store.scan(TABLE, suite=work.suite.name, round=work.round, stage=STAGE)
    found = rows.select(
        tasks=pl.col("task").n_unique(),
        right_share=pl.col("label").mean(),
        mean_tokens=pl.col("answer_ids").list.len().mean(),
    ).collect(engine="streaming")
    return shards.finish(**found.row(0, named=True))
