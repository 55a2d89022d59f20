"""Stage: groups of plain samples from every training task, cut into steps and judged."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from pipeline.generation.engine import Sampling
from pipeline.report import Report
from pipeline.stages.growing import growing_shards
from pipeline.stages.judging import pass_rate
from pipeline.stages.work import Shards, Work, check_counts
from pipeline.trees.grow import Tree

STAGE = "rollouts"
VERSION = "1"
TABLES = ("nodes", "verdicts", "requests")


@dataclass(frozen=True, slots=True)
class RolloutConfig:
    """group: samples a task."""

    group: int = 8
    temperature: float = 1.0
    top_p: float = 1.0


def write_rollouts(work: Work, config: RolloutConfig = RolloutConfig()) -> Report:
    """Sample a group from every training task of the suite."""
    check_counts(config, group=1)
    by_shard = work.shards()
    sampling = Sampling(config.temperature, config.top_p, work.suite.max_tokens)
    shards = Shards(work, STAGE, TABLES)
    with work.sampler(STAGE, total=config.group * sum(rows.height for rows in by_shard.values())) as sampler:
        for growth in growing_shards(shards, by_shard, sampler, version=VERSION, config=config):
            grower, groups = growth.grower, []
            for task, row in growth.tasks.items():
                prompt = grower.tokens.render(work.pack.messages("solve", question=row["question"]))
                tree = growth.trees[task] = Tree(task, f"{task}@{work.round}")
                tree.add_prompt(None, prompt, text=row["question"], agent="solver")
                groups.append((tree, [grower.request(task, prompt, sampling, sample=n) for n in range(config.group)]))
            entries = grower.run(request for _, group in groups for request in group)
            for tree, group in groups:
                for request in group:
                    if request.key in entries:
                        grower.add(tree, 0, entries[request.key], origin="sample")
            growth.write(growth.judge())
    return shards.finish(**_numbers(shards))


def _numbers(shards: Shards) -> dict[str, float | int | None]:
    nodes, verdicts = shards.read("nodes"), shards.read("verdicts")
    groups = verdicts.group_by("tree").agg(pl.col("reward").mean())
    mixed = groups.filter((pl.col("reward") > 0) & (pl.col("reward") < 1)).height
    return {
        "pass_rate": pass_rate(verdicts),
        "mixed_share": mixed / max(1, groups.height),
        "tokens": int(nodes["token_ids"].list.len().sum()),
        "truncated": nodes.filter(pl.col("finish") == "length").height,
    }
