"""Stage: grows the trees of rollouts further, by a strategy that begins with what they left.

Branches from inner steps serve twice: they are children for tree values, and they are the fresh continuations from
which Monte Carlo labels are read.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import check_counts
from pipeline.generation.budget.spending import Capped
from pipeline.report import Report
from pipeline.stages.earlier import rollout_shards
from pipeline.stages.growing import Growth
from pipeline.stages.growing_trees import make_trees, reading_of, strategy_of
from pipeline.stages.judging import pass_rate
from pipeline.stages.work import Shards, Work
from pipeline.trees.draft import Draft
from pipeline.trees.growth import FROM_TREE
from pipeline.trees.known import known_draft

STAGE = "trees"
VERSION = "2"
TABLES = ("nodes", "verdicts", "requests")


@dataclass(frozen=True, slots=True)
class TreeConfig(Capped):
    """rule: where trees grow further. attempts: forked a task, wrong and right in turn, for rules that take it.
    branches: new ones from each fork, likewise. temperature: none: as the rule has it. top_p: likewise. params: JSON
    object of what the rule shall have otherwise. order: which request goes first.
    """

    rule: str = "steps"
    attempts: int = 2
    branches: int = 4
    temperature: float | None = None
    top_p: float | None = None
    params: str = ""
    order: str = "first"


def write_trees(work: Work, config: TreeConfig = TreeConfig()) -> Report:
    """Grow the trees of the round's rollouts further.

    Raises:
        BadConfig: there is no such rule, or a parameter is not one of its.
    """
    check_counts(config, attempts=1, branches=1)
    common = {"attempts": config.attempts, "branches": config.branches}
    sampling = {"temperature": config.temperature, "top_p": config.top_p}
    strategy = strategy_of(FROM_TREE, config.rule, config.params, **common, **sampling)
    shards = Shards(work, STAGE, TABLES)
    making = make_trees(
        shards, rollout_shards(work), strategy, _go_on, version=VERSION, order=config.order, caps=config.caps
    )
    nodes, verdicts = shards.read("nodes"), shards.read("verdicts")
    return making.finish(
        pass_rate=pass_rate(verdicts),
        tokens=int(nodes["token_ids"].list.len().sum()),
        forks=nodes.join(nodes, left_on=["tree", "parent"], right_on=["tree", "node"], how="anti")
        .select("tree", "parent")
        .n_unique(),
    )


def _go_on(growth: Growth, task: str) -> Draft:
    """A tree as rollouts left it."""
    tree = growth.trees[task]
    return known_draft(tree, growth.rewards, max_tokens=growth.shards.work.suite.max_tokens, reading=reading_of(growth))
