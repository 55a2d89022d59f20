"""Stage: makes sure that every answer of a round has a verdict of the suite's present verifier.

Generating stages judge their own leaves, since what they do next depends on it. This stage judges whatever
is left: leaves whose verifier failed, or that an earlier version of it judged.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from pipeline.report import Report
from pipeline.stages.growing import GENERATING, digests
from pipeline.stages.judging import judge, pass_rate
from pipeline.stages.work import Shards, Work, inputs
from pipeline.tasks.verifiers import VERSION as VERIFIER_VERSION
from pipeline.trees.grow import read_trees

STAGE = "verdicts"
VERSION = "1"


def write_verdicts(work: Work) -> Report:
    """Judge the leaves that have no verdict of the present verifier."""
    by_shard = work.shards()
    shards = Shards(work, STAGE, ("verdicts",))

    def made_from(shard: str) -> dict[str, str]:
        tasks, nodes = work.store.tasks_digest(work.suite.name, shard), digests(work, shard, stages=GENERATING)
        return inputs(VERSION, verifier=VERIFIER_VERSION, tasks=tasks, nodes=nodes)

    for name, tasks, parts in shards.stale(by_shard, made_from):
        by_task = {row["task"]: row for row in tasks.iter_rows(named=True)}
        places = [work.place(stage, name) for stage in GENERATING]
        trees = read_trees(work.store.read("nodes", places))
        known = present(work.store.read("verdicts", places))
        fresh = judge(trees.values(), by_task, known=True).join(known, on=["tree", "node"], how="anti")
        shards.write(name, parts, verdicts=fresh)
    verdicts = round_verdicts(work)
    failed = shards.read("verdicts").filter(pl.col("reward").is_null()).height
    return shards.finish(judged=verdicts.height, pass_rate=pass_rate(verdicts), verifier_failures=failed)


def judged_shards(shards: Shards, made_from: dict[str, str]) -> Iterator[tuple[str, pl.DataFrame, dict[str, str]]]:
    """The shards whose nodes or verdicts an annotation was not yet made from: name, nodes, inputs."""
    work = shards.work

    def parts(shard: str) -> dict[str, str]:
        verdicts = digests(work, shard, stages=(STAGE,), tables=("verdicts",))
        return {**made_from, "nodes": digests(work, shard, stages=GENERATING), "verdicts": verdicts}

    for name, _, inputs_of in shards.stale(work.shards(), parts):
        yield name, work.store.read("nodes", [work.place(stage, name) for stage in GENERATING]), inputs_of


def present(verdicts: pl.DataFrame) -> pl.DataFrame:
    """The verdicts that stand: of the present version, and not a failure."""
    return verdicts.filter((pl.col("version") == VERIFIER_VERSION) & pl.col("reward").is_not_null())


def round_verdicts(work: Work, shard: str | None = None) -> pl.DataFrame:
    """The standing verdicts of a round, or of one shard of it, one a leaf."""
    places = [place for place in work.places("verdicts") if shard is None or place.shard == shard]
    return present(work.store.read("verdicts", places))
