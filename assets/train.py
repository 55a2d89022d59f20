"""Policies trained on a round's rows, and their evaluation on the held-out split."""

import dataclasses
from collections.abc import Callable

import dagster as dg

from assets.build import pairs, patches
from assets.generate import tasks
from assets.resources import Workplace
from assets.tables import filled, launch_form, result, round_asset
from pipeline.report import Report
from pipeline.stages.evals import EvalConfig, write_evals
from pipeline.stages.work import Work
from trainers.stages import DpoRecipe, IntRecipe, policy_name, train_dpo_policy, train_int_policy

Evals = launch_form(EvalConfig)

OWNERS = ["team:training"]


TABLES = {"dpo": pairs, "int": patches}
"""What each method is trained on."""


def nothing_to_train_on(work: Work, method: str, stage: str) -> Report | None:
    """The report of a stage that has nothing to do, where the round gave a method no rows; None where it has some.

    So a suite without reference solutions, or a round without a kept intervention, still comes to its release.
    """
    table = TABLES[method].key.path[-1]
    if any(work.store.rows(table, place) for place in work.places(table)):
        return None
    return Report(stage, work.suite.name, work.round, rows={table: 0}, numbers={"rows": 0})


def policy_asset(
    method: str, description: str, *, train: Callable[[Work, object], Report], recipe: type
) -> dg.AssetsDefinition:
    """The asset of a policy trained on a table of the round; the picture of its run is among the metadata."""
    form = launch_form(recipe)

    @round_asset(
        "policies",
        method,
        description=description,
        deps=[TABLES[method]],
        group="train",
        kinds={"trl", "pytorch"},
        owners=OWNERS,
        pool="gpu",
    )
    def policy(context: dg.AssetExecutionContext, config: form, workplace: Workplace) -> dg.MaterializeResult:
        work = workplace.open(context)
        if idle := nothing_to_train_on(work, method, f"policies/{method}"):
            return result(work, idle)
        trained = result(work, train(work, filled(recipe, config)))
        folder = work.settings.policies / policy_name(work, method)
        picture = dg.MetadataValue.path(str(folder / "curves.png"))
        return trained._replace(metadata={**trained.metadata, "folder": str(folder), "curves": picture})

    return policy


dpo = policy_asset("dpo", "The round's policy after DPO on its pairs.", train=train_dpo_policy, recipe=DpoRecipe)
int_sft = policy_asset(
    "int",
    "The round's policy after supervised training on interventions (InT).",
    train=train_int_policy,
    recipe=IntRecipe,
)


def eval_asset(method: str, *, trained: dg.AssetsDefinition | None) -> dg.AssetsDefinition:
    """The evaluation of the round's policy, or of one trained from it."""

    @round_asset(
        "evals",
        method,
        deps=[tasks, *([trained] if trained else [])],
        group="evaluate",
        kinds={"vllm", "parquet"},
        owners=OWNERS,
        tables=("evals",),
        pool="gpu",
        description=(
            "pass@k on the held-out split, with 95 % intervals over tasks"
            + (", and the gain over the round's policy task by task." if trained else ".")
        ),
    )
    def evals(context: dg.AssetExecutionContext, config: Evals, workplace: Workplace) -> dg.MaterializeResult:
        work = workplace.open(context)
        form = filled(EvalConfig, config)
        if trained:
            if idle := nothing_to_train_on(work, method, policy_name(work, method)):
                for place in work.places("evals", stage=policy_name(work, method)):
                    work.store.drop("evals", place)
                return result(work, dataclasses.replace(idle, rows={"evals": 0}), tables=("evals",))
            form = EvalConfig(**{**config.model_dump(), "baseline": workplace.policy})
            work = workplace.open(context, policy=policy_name(work, method))
        return result(work, write_evals(work, form), tables=("evals",))

    return evals


evals = [eval_asset("policy", trained=None), eval_asset("dpo", trained=dpo), eval_asset("int", trained=int_sft)]
