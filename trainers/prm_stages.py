"""Stages that train process reward models on a round's rows: one that scores steps, one that writes of them.

A model whose lineage names the very same parent, rows, recipe and `VERSION` is left alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from pipeline.errors import BadConfig, BadModel, BadTable
from pipeline.generation.policies import Policy, find_policy
from pipeline.labels.prm import Prm, find_prm, prm_folder
from pipeline.report import Progress, Report
from pipeline.stages.earlier import refuse_replaced
from pipeline.stages.prm_steps import TABLE
from pipeline.stages.rationales import STAGE as RATIONALES
from pipeline.stages.work import Work, inputs
from pipeline.store.layout import Place
from trainers.prm_recipe import PrmRecipe
from trainers.recipes import SftRecipe
from trainers.stages import policy_name

if TYPE_CHECKING:
    from trainers.runs import TrainingReport

VERSION = "1"
"""Of the training code. Raise it when it comes to make another model of the same parent, rows and recipe."""


def prm_name(work: Work, recipe: PrmRecipe) -> str:
    """Name of the model that a recipe makes of a round."""
    return recipe.name or f"{work.suite.name}-{work.round}-{recipe.labels}"


def train_prm_model(work: Work, recipe: PrmRecipe = PrmRecipe()) -> Report:
    """Train a process reward model from the round's policy on the rows of `prm_steps`.

    Raises:
        BadConfig, BadInput, BadModel: the recipe, the rows or the policy cannot be used.
        BadTable: there are no rows of these labels, or they were made before the trees changed.
        StoreFull: the model cannot be written; one already there stays.
    """
    recipe.check()
    name, places = prm_name(work, recipe), work.places(TABLE, stage=recipe.labels)
    if not places:
        raise BadTable(
            f"suite {work.suite.name}, round {work.round} has no rows of {TABLE} by {recipe.labels}",
            remedy=f"run `branchpoint prm-steps --labels {recipe.labels} {_options(work)}` first",
        )

    def train(rows: pl.DataFrame, **run: Any) -> TrainingReport:
        from trainers.data import ROW_LENGTH, short_rows

        short_rows(rows, length=ROW_LENGTH, most=recipe.max_length)  # refused before torch is loaded
        from trainers.prm import train_prm

        return train_prm(rows, policy=work.policy.path, recipe=recipe, **run)

    folder = prm_folder(name, policies=work.settings.policies)
    return _train(work, "prm", TABLE, places, recipe=recipe, folder=folder, train=train, find=find_prm)


def train_generative_prm(work: Work, recipe: SftRecipe = SftRecipe()) -> Report:
    """Supervised training on a judge's rationales that another labeller bears out, from the round's policy.

    The result is a policy; `branchpoint judge --judge genprm` puts it to work.

    Raises:
        BadConfig, BadInput, BadModel: the recipe, the rows or the policy cannot be used.
        BadTable: there are no rationales, or they were made before the trees changed.
        StoreFull: the policy cannot be written; one already there stays.

    Source: ThinkPRM (Khalifa et al., 2025), GenPRM (Zhao et al., 2025).
    """
    places = work.places("sft", stage=RATIONALES)
    if not places:
        raise BadTable(
            f"suite {work.suite.name}, round {work.round} has no rationales",
            remedy=f"run `branchpoint {RATIONALES} {_options(work)}` first",
        )
    recipe.check()
    if recipe.rows not in (SftRecipe().rows, RATIONALES) or recipe.agent:
        raise BadConfig("a generative model learns all of the rationales", remedy="leave rows and agent out")

    def train(rows: pl.DataFrame, **run: Any) -> TrainingReport:
        from trainers.sft import train_sft

        return train_sft(rows, policy=work.policy.path, recipe=recipe, method="genprm", **run)

    folder = work.settings.policies / policy_name(work, recipe.name or "genprm")
    return _train(work, "genprm", "sft", places, recipe=recipe, folder=folder, train=train, find=find_policy)


def _options(work: Work) -> str:
    return f"--suite {work.suite.name} --round {work.round}"


def _train(
    work: Work,
    method: str,
    table: str,
    places: list[Place],
    *,
    recipe: PrmRecipe | SftRecipe,
    folder: Path,
    train: Callable[..., TrainingReport],
    find: Callable[..., Prm | Policy],
) -> Report:
    """Train where there is no whole model of these inputs; the report in any case."""
    stage = f"policies/{method}"
    refuse_replaced(work, table)
    made_from = {
        **inputs(VERSION, config=recipe, parent=work.policy.fingerprint),
        "rows": [work.store.digest(table, place) for place in places],
    }
    report = Report(stage, work.suite.name, work.round, shards=1)
    numbers = _numbers_of(folder, made_from, find)
    if numbers is None:
        done = train(
            work.store.read(table, places),
            out=folder,
            inputs=made_from,
            on_progress=lambda p: work.on_progress(Progress(stage, "steps", p.step, p.steps, 0, 0, p.seconds)),
        )
        report.fresh, report.seconds, numbers = 1, done.seconds, done.numbers
    report.numbers = numbers
    report.rows = {table: sum(work.store.rows(table, place) for place in places)}
    report.digest = find(str(folder.absolute()), policies=folder.parent).fingerprint
    return report


def _numbers_of(
    folder: Path, made_from: dict[str, Any], find: Callable[..., Prm | Policy]
) -> dict[str, float | int] | None:
    """The numbers of the run that made this model; None where there is no such model, whole and of these inputs."""
    try:
        find(str(folder.absolute()), policies=folder.parent)
        lineage = json.loads((folder / "lineage.json").read_text())
        return lineage["numbers"] if lineage["inputs"] == made_from else None
    except (BadModel, OSError, ValueError, KeyError, TypeError):
        return None
