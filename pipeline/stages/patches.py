"""Stage: InT training rows."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import polars as pl

from pipeline.builders.patches import best_interventions, patch
from pipeline.errors import BadConfig
from pipeline.report import Report
from pipeline.stages.growing import GENERATING, digests
from pipeline.stages.judging import rewards_by_node
from pipeline.stages.verdicts import STAGE as VERDICTS
from pipeline.stages.verdicts import round_verdicts
from pipeline.stages.work import Shards, Work, check_counts, inputs
from pipeline.trees.grow import read_trees
from pipeline.variants.intervene import CLONES
from schemas import Patches
from schemas.base import column_types

STAGE = "patches"
VERSION = "1"


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
    by_shard = work.shards()
    for name, _, parts in shards.stale(
        by_shard,
        lambda shard: {
            **made_from,
            "nodes": digests(work, shard, stages=GENERATING, tables=("nodes", "verdicts", "variants")),
            "verdicts": digests(work, shard, stages=(VERDICTS,), tables=("verdicts",)),
        },
    ):
        places = [work.place(stage, name) for stage in GENERATING]
        variants = defaultdict(list)
        for variant in work.store.read("variants", places).iter_rows(named=True):
            variants[variant["task"]].append(variant)
        trees = read_trees(work.store.read("nodes", places))
        rewards = rewards_by_node(round_verdicts(work, name))
        rows = [
            patch(
                trees[task],
                variant,
                suite=work.suite.name,
                separator=work.suite.separator,
                clone=config.clone,
                rewards=rewards,
            )
            for task, found in variants.items()
            for variant in best_interventions(found, most=config.per_task, clone=config.clone)
        ]
        shards.write(name, parts, patches=pl.DataFrame(rows, schema=column_types(Patches), orient="row"))
    patches = shards.read("patches")
    return shards.finish(
        patches=patches.height,
        mean_accuracy=patches["accuracy"].mean(),
        trained_tokens=int(patches["labels"].list.eval(pl.element() != -100).list.sum().sum() or 0),
    )
