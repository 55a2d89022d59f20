"""Stage: makes sure that every answer of a round has a verdict of the suite's present verifier.

Generating stages judge their own leaves, since what they do next depends on it. This stage judges whatever
is left: leaves whose verifier failed, or that an earlier version of it judged.
"""

from __future__ import annotations

import polars as pl

from pipeline.report import Report
from pipeline.stages.growing import digests
from pipeline.stages.judging import judge, pass_rate
from pipeline.stages.work import Shards, Work, inputs
from pipeline.tasks.verifiers import VERSION as VERIFIER_VERSION
from pipeline.trees.grow import read_trees

STAGE = "verdicts"
VERSION = "1"
GENERATING = ("rollouts", "trees", "retries", "interventions")


def write_verdicts(work: Work) -> Report:
    """Judge the leaves that have no verdict of the present verifier."""
    by_shard = work.shards()
    shards = Shards(work, STAGE, ("verdicts",))
    made_from = inputs(VERSION, verifier=VERIFIER_VERSION)
    for name, tasks, parts in shards.stale(
        by_shard, lambda shard: {**made_from, "nodes": digests(work, shard, stages=GENERATING)}
    ):
        by_task = {row["task"]: row for row in tasks.iter_rows(named=True)}
        places = [work.place(stage, name) for stage in GENERATING]
        trees = read_trees(work.store.read("nodes", places))
        known = present(work.store.read("verdicts", places))
        fresh = judge(trees.values(), by_task, known=True).join(known, on=["tree", "node"], how="anti")
        shards.write(name, parts, verdicts=fresh)
    verdicts = round_verdicts(work)
    failed = shards.read("verdicts").filter(pl.col("reward").is_null()).height
    return shards.finish(judged=verdicts.height, pass_rate=pass_rate(verdicts), verifier_failures=failed)


def present(verdicts: pl.DataFrame) -> pl.DataFrame:
    """The verdicts that stand: of the present version, and not a failure."""
    return verdicts.filter((pl.col("version") == VERIFIER_VERSION) & pl.col("reward").is_not_null())


def round_verdicts(work: Work, shard: str | None = None) -> pl.DataFrame:
    """The standing verdicts of a round, or of one shard of it, one a leaf."""
    places = [
        place
        for place in work.store.places("verdicts", suite=work.suite.name, round=work.round)
        if shard is None or place.shard == shard
    ]
    return present(work.store.read("verdicts", places))
