"""The part of a round that asks the engine: attempts, and what grows from them."""

from __future__ import annotations

import json
from typing import Any

from pipeline.report import Report
from pipeline.stages.episodes import EpisodeConfig, write_episodes
from pipeline.stages.interventions import InterventionConfig, write_interventions
from pipeline.stages.retries import RetryConfig, write_retries
from pipeline.stages.rollouts import RolloutConfig, write_rollouts
from pipeline.stages.trees import TreeConfig, write_trees
from pipeline.stages.work import MISSED
from trainers.online.learners import trains_prm
from trainers.online.run import Run


def sample(run: Run, number: int) -> list[Report]:
    """Sample a round, from 0, with its policy; what is there is left alone, and what the engine lost is asked once
    more."""
    made = _sampled(run, number)
    return _sampled(run, number) if any(MISSED in report.numbers for report in made) else made


def _sampled(run: Run, number: int) -> list[Report]:
    work, recipe, before = run.at(number), run.recipe, run.names[:number]
    if work.suite.environment is None:
        how = {"strategy": recipe.strategy, "params": _json(recipe.strategy_params)}
        if recipe.allocation == "knapsack":
            how = {"strategy": "allotted", "history": tuple(before)}
        made = [write_rollouts(work, RolloutConfig(group=recipe.group, temperature=recipe.temperature, **how))]
    else:
        made = [write_episodes(work, EpisodeConfig(recipe.group, recipe.temperature))]
    if recipe.rule and (not recipe.prm_every or trains_prm(recipe, number)):
        params = _json(recipe.rule_params)
        config = TreeConfig(recipe.rule, recipe.attempts, recipe.branches, recipe.temperature, params=params)
        made.append(write_trees(work, config))
    if recipe.retries:
        made.append(write_retries(work, RetryConfig(per_task=recipe.retries, temperature=recipe.temperature)))
    if recipe.interventions:
        made.append(write_interventions(work, InterventionConfig(per_task=recipe.interventions)))
    return made


def _json(params: Any) -> str:
    return json.dumps(dict(params), sort_keys=True) if params else ""
