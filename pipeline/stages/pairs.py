"""Stage: preference pairs for DPO."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from pipeline.builders.malt import ROLES
from pipeline.builders.pairs import (
    Rewards,
    distinct,
    fork_pairs,
    intervention_pairs,
    malt_pairs,
    outcome_pairs,
    regeneration_pairs,
    retry_pairs,
)
from pipeline.errors import check_counts
from pipeline.report import Report
from pipeline.stages.judging import rewards_by_node
from pipeline.stages.verdicts import judged_shards, variants_by_task
from pipeline.stages.work import Shards, Work, inputs
from pipeline.trees.grow import Tree, read_trees
from schemas import Pairs
from schemas.base import column_types
from schemas.training_rows import PAIR_SOURCES

STAGE = "pairs"
VERSION = "6"


@dataclass(frozen=True, slots=True)
class PairConfig:
    """At most so many pairs a task, by where they come from. role: of each role of a tree of roles."""

    outcome: int = 8
    step: int = 4
    retry: int = 1
    intervention: int = 2
    regeneration: int = 2
    role: int = 4


def write_pairs(work: Work, config: PairConfig = PairConfig()) -> Report:
    """Build the pairs of the round."""
    check_counts(config, outcome=0, step=0, retry=0, intervention=0, regeneration=0, role=0)
    shards = Shards(work, STAGE, ("pairs",))
    made_from = inputs(VERSION, config=config, separator=work.suite.separator)
    named = {"suite": work.suite.name, "separator": work.suite.separator}
    for shard in judged_shards(shards, made_from):
        rewards, variants = rewards_by_node(shard.verdicts), variants_by_task(work, shard.name)
        rows = [
            row
            for tree in read_trees(shard.nodes).values()
            for found, most in _found(tree, rewards, variants[tree.task], named, config=config)
            for row in distinct(found, most=most)
        ]
        frame = pl.DataFrame(rows, schema=column_types(Pairs), orient="row")
        shards.write(shard.name, shard.made_from, pairs=frame)
    pairs = work.store.scan("pairs", suite=work.suite.name, round=work.round, stage=STAGE)
    lengths = {f"mean_{side}_tokens": pl.col(f"{side}_ids").list.len().mean() for side in ("chosen", "rejected")}
    sources = {f"from_{source}": (pl.col("source") == source).sum() for source in PAIR_SOURCES}
    counted = pairs.select(tasks=pl.col("task").n_unique(), **sources, **lengths).collect()
    return shards.finish(**counted.row(0, named=True))


def _found(
    tree: Tree, rewards: Rewards, variants: list[dict[str, Any]], named: dict[str, str], *, config: PairConfig
) -> Iterator[tuple[Iterable[dict[str, Any]], int]]:
    """The pairs of a tree by where they come from, and how many of each are taken."""
    yield outcome_pairs(tree, rewards, **named), config.outcome
    yield fork_pairs(tree, rewards, **named), config.step
    yield retry_pairs(tree, rewards, variants, **named), config.retry
    yield intervention_pairs(tree, variants, **named), config.intervention
    yield regeneration_pairs(tree, rewards, variants, **named), config.regeneration
    by_role = list(malt_pairs(tree, rewards, **named))
    for role in ROLES:
        yield (row for row in by_role if row["source"] == role), config.role
