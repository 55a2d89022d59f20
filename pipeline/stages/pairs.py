"""Stage: preference pairs for DPO."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import polars as pl

from pipeline.builders.pairs import distinct, fork_pairs, outcome_pairs, retry_pairs
from pipeline.errors import check_counts
from pipeline.report import Report
from pipeline.stages.judging import rewards_by_node
from pipeline.stages.verdicts import judged_shards, variants_by_task
from pipeline.stages.work import Shards, Work, inputs
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
    suite = work.suite.name
    for shard in judged_shards(shards, made_from):
        rewards, variants = rewards_by_node(shard.verdicts), variants_by_task(work, shard.name)
        rows = chain.from_iterable(
            [
                *distinct(outcome_pairs(tree, rewards, suite=suite), most=config.outcome),
                *distinct(fork_pairs(tree, rewards, suite=suite), most=config.step),
                *distinct(retry_pairs(tree, rewards, variants[tree.task], suite=suite), most=config.retry),
            ]
            for tree in read_trees(shard.nodes).values()
        )
        frame = pl.DataFrame(list(rows), schema=column_types(Pairs), orient="row")
        shards.write(shard.name, shard.made_from, pairs=frame)
    pairs = shards.read("pairs")
    counts = dict(pairs.group_by("source").len().iter_rows())
    return shards.finish(
        tasks=pairs["task"].n_unique(),
        **{f"from_{source}": counts.get(source, 0) for source in ("outcome", "step", "retry")},
        mean_chosen_tokens=pairs["chosen_ids"].list.len().mean(),
        mean_rejected_tokens=pairs["rejected_ids"].list.len().mean(),
    )
