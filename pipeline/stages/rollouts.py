"""Stage: from every training task a flat group of samples, or a tree that another strategy grows from the prompt."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from pipeline.errors import BadConfig, check_counts
from pipeline.generation.budget.spending import Capped
from pipeline.report import Report
from pipeline.stages.growing import Growth
from pipeline.stages.growing_trees import make_trees, reading_of, strategy_of
from pipeline.stages.judging import pass_rate
from pipeline.stages.work import Shards, Work
from pipeline.trees.draft import Draft, new_draft
from pipeline.trees.grow import Tree
from pipeline.trees.growth import FROM_PROMPT

STAGE = "rollouts"
VERSION = "2"
TABLES = ("nodes", "verdicts", "requests")


@dataclass(frozen=True, slots=True)
class RolloutConfig(Capped):
    """strategy: how a tree grows from the prompt. group: samples a task, for strategies that take it. temperature:
    none: as the strategy has it. top_p: likewise. params: JSON object of what the strategy shall have otherwise. order:
    which request goes first.
    """

    strategy: str = "flat"
    group: int = 8
    temperature: float | None = None
    top_p: float | None = None
    params: str = ""
    order: str = "first"


def write_rollouts(work: Work, config: RolloutConfig = RolloutConfig()) -> Report:
    """Grow a tree from every training task of the suite.

    Raises:
        BadConfig: there is no such strategy, or a parameter is not one of its.
    """
    check_counts(config, group=1)
    if work.suite.environment is not None:
        raise BadConfig(f"suite {work.suite.name} is played in an environment", remedy="run `branchpoint episodes`")
    common = {"group": config.group, "temperature": config.temperature, "top_p": config.top_p}
    strategy = strategy_of(FROM_PROMPT, config.strategy, config.params, **common)
    shards = Shards(work, STAGE, TABLES)
    making = make_trees(shards, work.shards(), strategy, _begin, version=VERSION, order=config.order, caps=config.caps)
    return making.finish(**_numbers(shards))


def _begin(growth: Growth, task: str) -> Draft:
    """A tree of which there is no more than the prompt."""
    work, row = growth.shards.work, growth.tasks[task]
    tree = growth.trees[task] = Tree(task, f"{task}@{work.round}")
    prompt = growth.grower.tokens.render(work.pack.messages("solve", question=row["question"]))
    return new_draft(
        task, tree.tree, prompt, text=row["question"], max_tokens=work.suite.max_tokens, reading=reading_of(growth)
    )


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
