"""Stage: InT training rows."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from pipeline.builders.patches import best_interventions, patch
from pipeline.errors import BadConfig, check_counts
from pipeline.report import Report
from pipeline.stages.judging import rewards_by_node
from pipeline.stages.verdicts import JudgedShard, judged_shards, variants_by_task
from pipeline.stages.work import Shards, Work, inputs
from pipeline.trees.grow import read_trees
from pipeline.variants.intervene import CLONES
from schemas import Patches
from schemas.base import column_types

STAGE = "patches"
VERSION = "2"


@dataclass(frozen=True, slots=True)
class PatchConfig:
    """per_task: rows a task, the most accurate interventions first. clone: what is trained, one of CLONES."""

    per_task: int = 1
    clone: str = "prefix+intervention"


def write_patches(work: Work, config: PatchConfig = PatchConfig()) -> Report:
    """Build the InT rows of the round.

    Raises:
        BadConfig: `clone` is none of CLONES.
    """
    check_counts(config, per_task=1)
    if config.clone not in CLONES:
        raise BadConfig(f"clone {config.clone!r} does not exist", remedy=f"choose one of {', '.join(CLONES)}")
    shards = Shards(work, STAGE, ("patches",))
    made_from = inputs(VERSION, config=config)
    for shard in judged_shards(shards, made_from):
        shards.write(shard.name, shard.made_from, patches=patch_rows(work, shard, config))
    patches = shards.read("patches")
    return shards.finish(
        mean_accuracy=patches["accuracy"].mean(),
        trained_tokens=int(patches["labels"].list.eval(pl.element() != -100).list.sum().sum() or 0),
    )


def patch_rows(work: Work, shard: JudgedShard, config: PatchConfig) -> pl.DataFrame:
    """Rows of the patches table of a shard."""
    trees, rewards = read_trees(shard.nodes), rewards_by_node(shard.verdicts)
    rows = [
        patch(
            trees[task],
            variant,
            suite=work.suite.name,
            separator=work.suite.separator,
            clone=config.clone,
            rewards=rewards,
        )
        for task, found in variants_by_task(work, shard.name).items()
        for variant in best_interventions(found, most=config.per_task, clone=config.clone)
    ]
    return pl.DataFrame(rows, schema=column_types(Patches), orient="row")
