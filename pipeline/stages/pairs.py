"""Stage: preference pairs for DPO."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import chain

import polars as pl

from pipeline.builders.pairs import distinct, fork_pairs, outcome_pairs, retry_pairs
from pipeline.report import Report
from pipeline.stages.growing import GENERATING, digests
from pipeline.stages.judging import rewards_by_node
from pipeline.stages.verdicts import STAGE as VERDICTS
from pipeline.stages.verdicts import round_verdicts
from pipeline.stages.work import Shards, Work, check_counts, inputs
from pipeline.trees.grow import read_trees
from schemas import Pairs
from schemas.base import column_types

STAGE = "pairs"
VERSION = "1"


@dataclass(frozen=True, slots=True)
class PairConfig:
    """At most so many pairs a task, by where they come from."""

    outcome: int = 8
    step: int = 4
    retry: int = 1


def write_pairs(work: Work, config: PairConfig = PairConfig()) -> Report:
    """Build the pairs of the round."""
    check_counts(config, outcome=0, step=0, retry=0)
    shards = Shards(work, STAGE, ("pairs",))
    made_from = inputs(VERSION, config=config)
    by_shard = work.shards()
    suite = work.suite.name
    for name, _, parts in shards.stale(
        by_shard,
        lambda shard: {
            **made_from,
            "nodes": digests(work, shard, stages=GENERATING, tables=("nodes", "verdicts", "variants")),
            "verdicts": digests(work, shard, stages=(VERDICTS,), tables=("verdicts",)),
        },
    ):
        places = [work.place(stage, name) for stage in GENERATING]
        rewards = rewards_by_node(round_verdicts(work, name))
        variants = defaultdict(list)
        for variant in work.store.read("variants", places).iter_rows(named=True):
            variants[variant["task"]].append(variant)
        rows = chain.from_iterable(
            [
                *distinct(outcome_pairs(tree, rewards, suite=suite), most=config.outcome),
                *distinct(fork_pairs(tree, rewards, suite=suite), most=config.step),
                *distinct(retry_pairs(tree, rewards, variants[tree.task], suite=suite), most=config.retry),
            ]
            for tree in read_trees(work.store.read("nodes", places)).values()
        )
        shards.write(name, parts, pairs=pl.DataFrame(list(rows), schema=column_types(Pairs), orient="row"))
    pairs = shards.read("pairs")
    counts = dict(pairs.group_by("source").len().iter_rows())
    return shards.finish(
        pairs=pairs.height,
        tasks=pairs["task"].n_unique(),
        **{f"from_{source}": counts.get(source, 0) for source in ("outcome", "step", "retry")},
        chosen_tokens=pairs["chosen_ids"].list.len().mean(),
        rejected_tokens=pairs["rejected_ids"].list.len().mean(),
    )
