"""Stage: paths of the round to be read by people, as sessions; a batch of tasks at a time."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from pipeline.builders.sessions import NODE_COLUMNS, session_rows
from pipeline.errors import check_counts
from pipeline.exchange.document import SOURCE
from pipeline.report import Report
from pipeline.stages.earlier import Earlier, judged_from, rollout_shards
from pipeline.stages.judged_batches import judged_batches
from pipeline.stages.work import Shards, Work, inputs
from schemas import Scores
from schemas.base import column_types

STAGE = TABLE = "sessions"
VERSION = "3"
SOURCE_COLUMNS = ("task", "tree", "node", "name", "text")


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """per_reward: of each tree, the first so many leaves of every reward, the unjudged among them; 0: all leaves."""

    per_reward: int = 1


def write_sessions(work: Work, config: SessionConfig = SessionConfig()) -> Report:
    """Build the rows of the round."""
    check_counts(config, per_reward=0)
    store, shards, made_from = work.store, Shards(work, STAGE, (TABLE,)), inputs(VERSION, config=config)

    def parts(shard: str) -> dict[str, str]:
        earlier = Earlier(work, shard)
        told = earlier.entry("scores", SOURCE)
        found = {**made_from, "tasks": earlier.tasks, **judged_from(work, shard, of=TABLE)}
        return found if told is None else {**found, f"scores {SOURCE}": told.digest}

    empty = pl.DataFrame(schema=column_types(Scores)).select(SOURCE_COLUMNS)
    for shard, tasks, said in shards.stale(rollout_shards(work), parts):
        told = store.batches("scores", [work.place(SOURCE, shard)], columns=SOURCE_COLUMNS)
        with store.writer(TABLE, work.place(STAGE, shard), inputs=said) as out:
            for nodes, verdicts, sources in judged_batches(work, shard, told, columns=NODE_COLUMNS):
                sources = empty if sources is None else pl.DataFrame(sources)
                out.add(session_rows(tasks, nodes, verdicts, sources, per_reward=config.per_reward))
    rows = store.scan(TABLE, suite=work.suite.name, round=work.round, stage=STAGE)
    found = rows.select(
        tasks=pl.col("task").n_unique(),
        judged=pl.col("reward").count(),
        mean_messages=pl.col("message_count").mean(),
        calls=pl.col("call_count").sum(),
    ).collect(engine="streaming")
    return shards.finish(**found.row(0, named=True))
