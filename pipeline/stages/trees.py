"""Stage: branches from the inner steps of some attempts of every task (SPO-tree, one level).

The branches serve twice: they are children for tree values, and they are the fresh continuations from
which Monte Carlo labels are read.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.generation.engine import Sampling
from pipeline.report import Report
from pipeline.stages.earlier import rollout_shards
from pipeline.stages.growing import growing_shards
from pipeline.stages.judging import pass_rate
from pipeline.stages.work import Shards, Work, check_counts
from pipeline.trees.fork import attempts_of, inner_steps, mixed_attempts

STAGE = "trees"
VERSION = "1"
TABLES = ("nodes", "verdicts", "requests")


@dataclass(frozen=True, slots=True)
class TreeConfig:
    """attempts: forked a task, wrong and right in turn. branches: new ones from each inner step."""

    attempts: int = 2
    branches: int = 4
    temperature: float = 1.0
    top_p: float = 1.0


def write_trees(work: Work, config: TreeConfig = TreeConfig()) -> Report:
    """Fork the chosen attempts after each of their inner steps."""
    check_counts(config, attempts=1, branches=1)
    by_shard = rollout_shards(work)
    sampling = Sampling(config.temperature, config.top_p, work.suite.max_tokens)
    shards = Shards(work, STAGE, TABLES)
    with work.sampler(STAGE) as sampler:
        for growth in growing_shards(shards, by_shard, sampler, version=VERSION, config=config):
            grower, forks = growth.grower, []
            for tree in growth.trees.values():
                for attempt in mixed_attempts(attempts_of(tree, growth.rewards), count=config.attempts):
                    for step in inner_steps(attempt):
                        prefix = tree.tokens(step)
                        requests = [
                            grower.request(tree.task, prefix, sampling, sample=index)
                            for index in range(config.branches)
                        ]
                        forks.append((tree, step, requests))
            entries = grower.run(request for _, _, requests in forks for request in requests)
            for tree, step, requests in forks:
                for request in requests:
                    if request.key in entries:
                        grower.add(tree, step, entries[request.key], origin="branch")
            growth.write(growth.judge())
    nodes, verdicts = shards.read("nodes"), shards.read("verdicts")
    return shards.finish(
        pass_rate=pass_rate(verdicts),
        tokens=int(nodes["token_ids"].list.len().sum()),
        forks=nodes.join(nodes, left_on=["tree", "parent"], right_on=["tree", "node"], how="anti")
        .select("tree", "parent")
        .n_unique(),
    )
