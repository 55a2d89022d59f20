"""Stage: the best answers of every task, to be imitated; a batch of tasks at a time.

Of a suite with an environment whole episodes are, each of its turns.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from pipeline.builders.answers import NODE_COLUMNS, judged_answers
from pipeline.builders.best_answers import best_rows
from pipeline.errors import BadConfig, check_counts
from pipeline.report import Report
from pipeline.stages.earlier import judged_from, rollout_shards
from pipeline.stages.judged_batches import judged_batches
from pipeline.stages.work import Shards, Work, inputs

STAGE, TABLE = "best_answers", "sft"
VERSION = "2"


@dataclass(frozen=True, slots=True)
class BestAnswerConfig:
    """best: at most so many distinct answers of a task, the highest reward first, then the shortest; 0: all. least:
    reward from which on an answer is imitated. branches: take the branches of trees too, not the plain rollouts alone.
    """

    best: int = 1
    least: float = 1.0
    branches: bool = False


def write_best_answers(work: Work, config: BestAnswerConfig = BestAnswerConfig()) -> Report:
    """Build the rows of the round.

    Raises:
        BadConfig: `best` is negative, or `least` no reward.
        BadTable: some shard has no rollouts.
    """
    check_counts(config, best=0)
    if not 0 <= config.least <= 1:
        raise BadConfig(f"least is {config.least}", remedy="give a reward from 0 to 1")
    shards, made_from = Shards(work, STAGE, (TABLE,)), inputs(VERSION, config=config, separator=work.suite.separator)
    origins = ("sample", "branch") if config.branches else ("sample",)
    for shard, _, said in shards.stale(
        rollout_shards(work, columns=()), lambda shard: {**made_from, **judged_from(work, shard, of=TABLE)}
    ):
        with work.store.writer(TABLE, work.place(STAGE, shard), inputs=said) as out:
            for nodes, verdicts in judged_batches(work, shard, columns=NODE_COLUMNS):
                answers = judged_answers(
                    nodes,
                    verdicts,
                    origins=origins,
                    separator=work.suite.separator,
                    turns=work.suite.environment is not None,
                )
                out.add(best_rows(answers, suite=work.suite.name, least=config.least, best=config.best))
    rows = work.store.scan(TABLE, suite=work.suite.name, round=work.round, stage=STAGE)
    trained = (pl.col("weights").list.eval(pl.element() > 0)).list.sum()
    found = rows.select(tasks=pl.col("task").n_unique(), mean_trained_tokens=trained.mean()).collect(engine="streaming")
    return shards.finish(**found.row(0, named=True))
