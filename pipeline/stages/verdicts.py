"""Stage: makes sure that every answer of a round has a verdict of the suite's present verifier.

Generating stages judge their own leaves, since what they do next depends on it. This stage judges whatever
is left: leaves whose verifier failed, or that an earlier version of it judged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import polars as pl

from pipeline.report import Report
from pipeline.stages.earlier import GENERATING, JUDGING, Earlier, judged_from, rollout_shards
from pipeline.stages.judging import judge, pass_rate
from pipeline.stages.work import Shards, Work, inputs
from pipeline.tasks.verifiers import UNVERIFIED
from pipeline.tasks.verifiers import VERSION as VERIFIER_VERSION
from pipeline.trees.grow import read_trees

STAGE = JUDGING
VERSION = "1"


class JudgedShard(NamedTuple):
    """A shard that an annotation must be made of: its nodes, the verdicts that stand, its inputs."""

    name: str
    nodes: pl.DataFrame
    verdicts: pl.DataFrame
    made_from: dict[str, str]


def write_verdicts(work: Work) -> Report:
    """Judge the leaves that have no verdict of the present verifier."""
    by_shard = rollout_shards(work)
    shards = Shards(work, STAGE, ("verdicts",))

    def made_from(shard: str) -> dict[str, str]:
        earlier = Earlier(work, shard)
        return inputs(VERSION, verifier=VERIFIER_VERSION, tasks=earlier.tasks, nodes=earlier.digests(GENERATING))

    for name, tasks, parts in shards.stale(by_shard, made_from):
        by_task = {row["task"]: row for row in tasks.iter_rows(named=True)}
        places = [work.place(stage, name) for stage in GENERATING]
        trees = read_trees(work.store.read("nodes", places), by="tree")
        known = present(work.store.read("verdicts", places))
        ours = [tree for tree in trees.values() if by_task[tree.task]["verifier"] not in UNVERIFIED]
        fresh = judge(ours, by_task, known=True).join(known, on=["tree", "node"], how="anti")
        shards.write(name, parts, verdicts=fresh)
    verdicts = present(work.store.read("verdicts", work.places("verdicts")))
    failed = shards.read("verdicts").filter(pl.col("reward").is_null()).height
    return shards.finish(judged=verdicts.height, pass_rate=pass_rate(verdicts), verifier_failures=failed)


def judged_shards(shards: Shards, made_from: dict[str, str]) -> Iterator[JudgedShard]:
    """The shards whose nodes, verdicts or variants a table was not yet made from; it is the first of the walk's."""
    work, table = shards.work, shards.tables[0]
    for name, _, parts in shards.stale(
        rollout_shards(work, columns=()), lambda shard: {**made_from, **judged_from(work, shard, of=table)}
    ):
        yield judged_shard(work, name, parts)


def judged_shard(work: Work, name: str, made_from: dict[str, str]) -> JudgedShard:
    """A shard as it is now."""
    places = [work.place(stage, name) for stage in GENERATING]
    verdicts = present(work.store.read("verdicts", [*places, work.place(STAGE, name)]))
    return JudgedShard(name, work.store.read("nodes", places), verdicts, made_from)


def variants_by_task(work: Work, shard: str) -> dict[str, list[dict[str, Any]]]:
    """Rows of the variants table of a shard, by task."""
    found = defaultdict(list)
    for variant in work.store.read("variants", [work.place(stage, shard) for stage in GENERATING]).iter_rows(
        named=True
    ):
        found[variant["task"]].append(variant)
    return found


def present(verdicts: pl.DataFrame) -> pl.DataFrame:
    """The verdicts that stand: of the present version, and not a failure."""
    return verdicts.filter((pl.col("version") == VERIFIER_VERSION) & pl.col("reward").is_not_null())
