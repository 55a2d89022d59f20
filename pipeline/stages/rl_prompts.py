"""Stage: the round's tasks as prompts for online RL, with how hard they were found."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from pipeline.builders.rl_prompts import NODE_COLUMNS, prompt_rows
from pipeline.errors import BadConfig
from pipeline.report import Report
from pipeline.stages.earlier import Earlier, judged_from, rollout_shards
from pipeline.stages.judged_batches import judged_batches
from pipeline.stages.work import Shards, Work, inputs

STAGE = TABLE = "rl_prompts"
VERSION = "1"


@dataclass(frozen=True, slots=True)
class RlPromptConfig:
    """low: least pass rate of a task that is kept. high: greatest one; below 1 and above 0 they leave out what is
    always or never solved, of which a group has no advantage. Tasks that were not tried are kept.
    """

    low: float = 0.0
    high: float = 1.0


def write_rl_prompts(work: Work, config: RlPromptConfig = RlPromptConfig()) -> Report:
    """Build the prompts of the round.

    Raises:
        BadConfig: the bounds are no interval.
    """
    if not 0 <= config.low <= config.high <= 1:
        raise BadConfig(
            f"low is {config.low}, high is {config.high}", remedy="give pass rates from 0 to 1, the lower first"
        )
    shards, made_from, left_out = Shards(work, STAGE, (TABLE,)), inputs(VERSION, config=config), 0
    for shard, tasks, said in shards.stale(
        rollout_shards(work),
        lambda shard: {**made_from, "tasks": Earlier(work, shard).tasks, **judged_from(work, shard, of=TABLE)},
    ):
        with work.store.writer(TABLE, work.place(STAGE, shard), inputs=said) as out:
            for nodes, verdicts in judged_batches(work, shard, columns=NODE_COLUMNS):
                rows = prompt_rows(tasks, nodes, verdicts)
                rate = pl.col("pass_rate")
                kept = rows.filter(rate.is_null() | rate.is_between(config.low, config.high))
                left_out += len(rows) - len(kept)
                out.add(kept)
    rows = work.store.scan(TABLE, suite=work.suite.name, round=work.round, stage=STAGE)
    found = rows.select(
        mean_pass_rate=pl.col("pass_rate").mean(),
        never_solved=(pl.col("pass_rate") == 0).sum(),
        always_solved=(pl.col("pass_rate") == 1).sum(),
        untried=pl.col("pass_rate").null_count(),
    ).collect(engine="streaming")
    return shards.finish(**found.row(0, named=True), left_out=left_out)
