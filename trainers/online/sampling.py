"""The part of a round that asks the engine: attempts, and what grows from them."""

from __future__ import annotations

import json
from typing import Any

from pipeline.errors import check_words
from pipeline.report import Report
from pipeline.stages.episodes import EpisodeConfig, opened_for, write_episodes
from pipeline.stages.interventions import InterventionConfig, write_interventions
from pipeline.stages.params import read_json_params
from pipeline.stages.retries import RetryConfig, write_retries
from pipeline.stages.rollouts import RolloutConfig, write_rollouts
from pipeline.stages.trees import TreeConfig, write_trees
from pipeline.stages.work import MISSED
from pipeline.tasks.suites import Suite
from pipeline.trees.growth import FROM_PROMPT
from trainers.online.learners import trains_prm
from trainers.online.recipe import OnlineRecipe
from trainers.online.run import Run

PLAYED = ("flat", "treeps_rag")
"""Strategies where a suite has an environment."""


def check_sampled(recipe: OnlineRecipe, suite: Suite) -> None:
    """Refuse a recipe that cannot sample the suite.

    Raises:
        BadConfig: another kind of suite has its strategy or its allocation, or as `opened_for`.
    """
    if suite.environment is None:
        check_words(recipe, of=f"recipe: on suite {suite.name}, which has no environment,", strategy=FROM_PROMPT)
        return
    played = f"recipe: on suite {suite.name}, which is played,"
    check_words(recipe, of=played, strategy=PLAYED, allocation=("even",))
    opened_for(suite, _episodes(recipe))


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
        made = [write_episodes(work, _episodes(recipe))]
    if recipe.rule and (not recipe.prm_every or trains_prm(recipe, number)):
        params = _json(recipe.rule_params)
        config = TreeConfig(recipe.rule, recipe.attempts, recipe.branches, recipe.temperature, params=params)
        made.append(write_trees(work, config))
    if recipe.retries:
        made.append(write_retries(work, RetryConfig(per_task=recipe.retries, temperature=recipe.temperature)))
    if recipe.interventions:
        made.append(write_interventions(work, InterventionConfig(per_task=recipe.interventions)))
    return made


def _episodes(recipe: OnlineRecipe) -> EpisodeConfig:
    """How episodes are played. A tree takes no group."""
    own = {"group": recipe.group} if recipe.strategy == "flat" else {}
    config = EpisodeConfig(temperature=recipe.temperature, strategy=recipe.strategy, **own)
    return read_json_params(config, _json(recipe.strategy_params), of=f"recipe: {recipe.strategy} of episodes")


def _json(params: Any) -> str:
    return json.dumps(dict(params), sort_keys=True) if params else ""
