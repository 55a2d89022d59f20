"""The part of a round that asks the engine: attempts, and what grows from them."""

from __future__ import annotations

import json
from typing import Any

from pipeline.stages.episodes import EpisodeConfig, write_episodes
from pipeline.stages.interventions import InterventionConfig, write_interventions
from pipeline.stages.retries import RetryConfig, write_retries
from pipeline.stages.rollouts import STAGE as ROLLOUTS
from pipeline.stages.rollouts import RolloutConfig, write_rollouts
from pipeline.stages.trees import TreeConfig, write_trees
from pipeline.stages.verdicts import present
from pipeline.stages.work import Work
from trainers.online.allocation import allotted_samples
from trainers.online.learners import trains_prm
from trainers.online.run import Run


def sample(run: Run, number: int) -> None:
    """Sample a round, from 0, with its policy; what is there is left alone."""
    work, recipe, before = run.at(number), run.recipe, run.names[:number]
    if work.suite.environment is None:
        strategy, params = recipe.strategy, recipe.strategy_params
        if recipe.allocation == "knapsack":
            strategy, params = "allotted", {"counts": _allotted(work, before, group=recipe.group)}
        write_rollouts(work, RolloutConfig(strategy, recipe.group, recipe.temperature, params=_json(params)))
    else:
        write_episodes(work, EpisodeConfig(recipe.group, recipe.temperature))
    if recipe.rule and (not recipe.prm_every or trains_prm(recipe, number)):
        params = _json(recipe.rule_params)
        write_trees(work, TreeConfig(recipe.rule, recipe.attempts, recipe.branches, recipe.temperature, params=params))
    if recipe.retries:
        write_retries(work, RetryConfig(per_task=recipe.retries, temperature=recipe.temperature))
    if recipe.interventions:
        write_interventions(work, InterventionConfig(per_task=recipe.interventions))


def _allotted(work: Work, before: list[str], *, group: int) -> dict[str, int]:
    """Samples of each task of the round, by the verdicts of the rollouts before; as many of each in the first."""
    tasks = [task for shard in work.shards().values() for task in shard["task"]]
    if not before:
        return dict.fromkeys(tasks, group)
    store, suite = work.store, work.suite.name
    places = [store.places("verdicts", suite=suite, round=name, stage=ROLLOUTS) for name in before]
    return allotted_samples(tasks, [present(store.read("verdicts", found)) for found in places], group=group)


def _json(params: Any) -> str:
    return json.dumps(dict(params), sort_keys=True) if params else ""
