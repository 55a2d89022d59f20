"""Stage: from every training task a flat group of samples, or a tree that another strategy grows from the prompt.

`brpo` cuts at equal parts of the suite's longest answer and forces answers by the words of its prompt pack, unless its
parameters say otherwise; which node is of which budget is written as the scores `budget`, for credit by BRPO.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl

from pipeline.errors import BadConfig, check_counts
from pipeline.generation.budget.allotment import allotted_samples
from pipeline.generation.budget.spending import Capped
from pipeline.report import Report
from pipeline.stages.growing import Growth
from pipeline.stages.growing_trees import make_trees, reading_of, strategy_of
from pipeline.stages.informing import informed
from pipeline.stages.judging import pass_rate
from pipeline.stages.verdicts import present
from pipeline.stages.work import Shards, Work
from pipeline.trees.draft import Draft, new_draft
from pipeline.trees.grow import Tree
from pipeline.trees.growth import FROM_PROMPT, SCORES_OF
from pipeline.trees.growth.allotted import Allotted

STAGE = "rollouts"
VERSION = "2"
TABLES = ("nodes", "verdicts", "requests")
BUDGETS = 4
"""Of `brpo`, in equal parts of the longest answer."""


@dataclass(frozen=True, slots=True)
class RolloutConfig(Capped):
    """strategy: how a tree grows from the prompt. group: samples a task, for strategies that take it. temperature:
    none: as the strategy has it. top_p: likewise. params: JSON object of what the strategy shall have otherwise. order:
    which request goes first. history: rounds, in their order, by whose verdicts `allotted` shares group samples a task
    among the tasks (Knapsack RL).
    """

    strategy: str = "flat"
    group: int = 8
    temperature: float | None = None
    top_p: float | None = None
    params: str = ""
    order: str = "first"
    history: tuple[str, ...] = ()


def write_rollouts(work: Work, config: RolloutConfig = RolloutConfig()) -> Report:
    """Grow a tree from every training task of the suite.

    Raises:
        BadConfig: there is no such strategy, a parameter is not one of its, or a round of the history has no rollouts.
        BadModel: it names a process reward model that there is not.
    """
    check_counts(config, group=1)
    if work.suite.environment is not None:
        raise BadConfig(f"suite {work.suite.name} is played in an environment", remedy="run `branchpoint episodes`")
    common = {"group": config.group, "temperature": config.temperature, "top_p": config.top_p}
    at_budgets = _at_budgets(work) if config.strategy == "brpo" else {}
    strategy = strategy_of(FROM_PROMPT, config.strategy, config.params, **common, **at_budgets)
    if config.history:
        if config.strategy != "allotted" or strategy.counts:
            raise BadConfig(
                "a history says how many samples a task has", remedy="give it with --strategy allotted, without counts"
            )
        strategy = replace(strategy, counts=_allotted(work, config.history, group=strategy.group))
    elif isinstance(strategy, Allotted) and (unknown := strategy.counts.keys() - _tasks(work)):
        known = "`branchpoint sql \"select task from tasks where split = 'train'\"` lists them"
        raise BadConfig(f"suite {work.suite.name} has no training task {min(unknown)!r}", remedy=known)
    shards = Shards(work, STAGE, TABLES, SCORES_OF.get(config.strategy, ()))
    growing, made_from = informed(work, strategy)
    making = make_trees(
        shards,
        work.shards(),
        growing,
        _begin,
        version=VERSION,
        order=config.order,
        caps=config.caps,
        made_from=made_from,
    )
    return making.finish(**_numbers(shards))


def _allotted(work: Work, history: Sequence[str], *, group: int) -> dict[str, int]:
    """Samples of each task, by the verdicts on what was sampled in other rounds.

    Raises:
        BadConfig: a round has no rollouts, or is the one that is made.
    """
    rewards = []
    for name in history:
        places = replace(work, round=name).places("verdicts", stage=STAGE)
        if name == work.round or not places:
            raise BadConfig(
                f"round {name} of suite {work.suite.name} is no history of round {work.round}",
                remedy="name earlier rounds that have rollouts",
            )
        rewards.append(present(work.store.read("verdicts", places)))
    return allotted_samples(_tasks(work), rewards, group=group)


def _tasks(work: Work) -> list[str]:
    return [task for shard in work.shards().values() for task in shard["task"]]


def _at_budgets(work: Work) -> dict[str, object]:
    """Parts of the longest answer, and the words by which the pack forces an answer; nothing marks thinking."""
    return {
        "budgets": tuple(work.suite.max_tokens * part // BUDGETS for part in range(1, 1 + BUDGETS)),
        "cut": work.pack.cut,
        "header": work.suite.separator + work.pack.header,
        "end_marker": "",
    }


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
