"""Models that learn beside the policy: a process reward model, a critic, a language model as an implicit reward model.

Each is made by the stage that the command of its name runs, on the round's own data. Knows no loss of the policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.builders.prm_steps import OUTCOME
from pipeline.credit import METHODS, scored_by
from pipeline.generation.engines import close_engines
from pipeline.stages.prm_scores import PrmScoresConfig, write_prm_scores
from pipeline.stages.prm_steps import PrmStepsConfig, write_prm_steps
from pipeline.stages.step_labels import StepLabelConfig, write_step_labels
from pipeline.stages.work import Work
from trainers.online.recipe import OnlineRecipe
from trainers.prm_stages import train_prm_model
from trainers.scores import PASSES
from trainers.scores.critic_stage import train_critic
from trainers.scores.passes import ScoreConfig
from trainers.scores.stage import write_model_scores
from trainers.stages import policy_name

IMPLICIT = "implicit"
"""Of the language model that a round makes to tell steps' rewards in the next."""
_CRITICS = {"critic": "token", "archer": "utterance"}
"""Kinds of critics by the pass that reads one."""


def trains_prm(recipe: OnlineRecipe, number: int) -> bool:
    """Whether a round, from 0, trains the process reward model anew."""
    return bool(recipe.prm_every) and number % recipe.prm_every == 0


def write_process_labels(work: Work, recipe: OnlineRecipe, rounds: Sequence[str], *, seed: int) -> None:
    """Label the round's steps by the recipe's process reward model, trained first where it is this round's turn.

    Args:
        work: surroundings of the round.
        recipe: with `prm` or `prm_every`.
        rounds: names of the rounds so far, this one the last.
        seed: of the model's head and of the order of its rows.
    """
    make_room()
    name = recipe.prm
    if recipe.prm_every:
        last = len(rounds) - 1
        name = f"{work.suite.name}-{rounds[last - last % recipe.prm_every]}-online"
        if trains_prm(recipe, last):
            asked = recipe.prm_recipe(name=name, seed=seed)
            if asked.labels != OUTCOME:
                write_step_labels(work, StepLabelConfig(asked.labels))
            write_prm_steps(work, PrmStepsConfig(asked.labels))
            train_prm_model(work, asked)
    write_prm_scores(work, PrmScoresConfig(prm=name))


def passes_of(method: str) -> list[str]:
    """Scoring passes that a credit method reads; what no pass gives comes from elsewhere."""
    needed = set(scored_by(METHODS[method]))
    return [name for name, gives in PASSES.items() if needed & set(gives)]


def write_scores(work: Work, recipe: OnlineRecipe, *, first: str, implicit: str, seed: int) -> None:
    """Let models score the round's nodes, as the credit method needs it; a critic is trained on the round first.

    Args:
        work: surroundings of the round.
        recipe: of the run.
        first: policy that the rounds begin from: the reference.
        implicit: language model whose log-ratios are rewards.
        seed: of the critic's tasks, heads and order.
    """
    asked = passes_of(recipe.method)
    if not asked:
        return
    make_room()
    critic = ""
    for name in asked:
        if name in _CRITICS:
            critic = f"{work.suite.name}-{work.round}-{_CRITICS[name]}"
            train_critic(work, recipe.critic_recipe(kind=_CRITICS[name], name=critic, seed=seed))
    write_model_scores(work, ScoreConfig(tuple(asked), reference=first, prm=implicit, critic=critic))


def implicit_model(work: Work, rounds: Sequence[str], *, first: str) -> str:
    """Name of the language model that tells the rewards of the last of some rounds: what the round before made, at
    first the policy that all began from."""
    if len(rounds) == 1:
        return first
    return f"{work.suite.name}-{rounds[-2]}-{IMPLICIT}"


def made_model(work: Work) -> Path:
    """Folder of the language model that a round makes."""
    return work.settings.policies / policy_name(work, IMPLICIT)


def make_room() -> None:
    """Close the engine where there is a GPU, of which it has most of the memory."""
    from torch import cuda

    if cuda.is_available():
        close_engines()
