"""Stage: R3L's rows, advantages included: attempts and distilled retries, and the reflections that led to a success."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from pipeline.builders.retry_rows import retry_rows
from pipeline.credit.r3l import R3lParams
from pipeline.report import Report
from pipeline.stages.judging import rewards_by_node
from pipeline.stages.verdicts import judged_shards, variants_by_task
from pipeline.stages.work import Shards, Work, inputs
from pipeline.trees.grow import read_trees
from schemas import RlSamples
from schemas.base import column_types

STAGE = "retry_rows"
VERSION = "1"
RECORDS = ("base", "distilled_retry", "reflection", "guided_retry")


@dataclass(frozen=True, slots=True)
class RetryRowConfig:
    """alpha: factor of an advantage that is not negative."""

    alpha: float = 3.0


def write_retry_rows(work: Work, config: RetryRowConfig = RetryRowConfig()) -> Report:
    """Build R3L's rows of the round."""
    params = R3lParams(alpha=config.alpha)
    shards = Shards(work, STAGE, ("rl_samples",))
    made_from = inputs(VERSION, config=config)
    for shard in judged_shards(shards, made_from):
        rewards, variants = rewards_by_node(shard.verdicts), variants_by_task(work, shard.name)
        rows = [
            row
            for tree in read_trees(shard.nodes).values()
            for row in retry_rows(tree, rewards, variants[tree.task], suite=work.suite.name, params=params)
        ]
        frame = pl.DataFrame(rows, schema=column_types(RlSamples), orient="row")
        shards.write(shard.name, shard.made_from, rl_samples=frame)
    rows = work.store.scan("rl_samples", suite=work.suite.name, round=work.round, stage=STAGE)
    found = rows.group_by("record").agg(pl.len(), tokens=pl.col("loss_mask").list.sum().sum())
    counts = {record: (count, tokens) for record, count, tokens in found.collect(engine="streaming").iter_rows()}
    return shards.finish(
        **{record: counts.get(record, (0, 0))[0] for record in RECORDS},
        trained_tokens=sum(tokens or 0 for _, tokens in counts.values()),
    )
