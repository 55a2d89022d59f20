"""Policies trained on a round's rows, and their evaluation on the held-out split."""

import dataclasses
from collections.abc import Callable

import dagster as dg

from assets.build import best_answers, pairs, patches, prm_steps
from assets.generate import tasks
from assets.resources import Workplace
from assets.tables import filled, launch_form, result, round_asset, with_picture
from pipeline.labels.prm import prm_folder
from pipeline.report import Report
from pipeline.stages.evals import EvalConfig, write_evals
from pipeline.stages.prm_evals import PrmEvalConfig, write_prm_evals
from pipeline.stages.token_rewards import TokenRewardConfig
from pipeline.stages.work import Work
from trainers.prm_recipe import PrmRecipe
from trainers.prm_stages import prm_name, train_prm_model
from trainers.recipes import DpoRecipe, IntRecipe, RunRecipe, SftRecipe, TRegRecipe
from trainers.stages import (
    build_token_rewards,
    policy_name,
    train_dpo_policy,
    train_int_policy,
    train_sft_policy,
    train_treg_policy,
    trained_on,
)

Evals = launch_form(EvalConfig)

OWNERS = ["team:training"]


TokenRewards = launch_form(TokenRewardConfig)


@round_asset(
    deps=[pairs], group="build", kinds={"pytorch", "parquet"}, owners=OWNERS, tables=("token_rewards",), pool="gpu"
)
def token_rewards(
    context: dg.AssetExecutionContext, config: TokenRewards, workplace: Workplace
) -> dg.MaterializeResult:
    """A reward for every token of the pairs' answers (T-REG), by what the policy would keep if asked to better them."""
    work = workplace.open(context)
    return result(work, build_token_rewards(work, filled(TokenRewardConfig, config)), tables=("token_rewards",))


def nothing_to_train_on(work: Work, recipe: RunRecipe, stage: str) -> Report | None:
    """The report of a stage that has nothing to do, where the round gave a recipe no rows; None where it has some.

    So a suite without reference solutions, or a round without a kept intervention, still comes to its release.
    """
    table, of = ("prm_steps", None) if isinstance(recipe, PrmRecipe) else trained_on(recipe)
    if any(work.store.rows(table, place) for place in work.places(table, stage=of)):
        return None
    return Report(stage, work.suite.name, work.round, rows={table: 0}, numbers={"rows": 0})


def policy_asset(
    method: str,
    description: str,
    *,
    rows: dg.AssetsDefinition,
    train: Callable[[Work, object], Report],
    recipe: type[RunRecipe],
) -> dg.AssetsDefinition:
    """The asset of a policy trained on rows of the round; the picture of its run is among the metadata."""
    form = launch_form(recipe)

    @round_asset(
        "policies",
        method,
        description=description,
        deps=[rows],
        group="train",
        kinds={"trl", "pytorch"},
        owners=OWNERS,
        pool="gpu",
    )
    def policy(context: dg.AssetExecutionContext, config: form, workplace: Workplace) -> dg.MaterializeResult:
        work, said = workplace.open(context), filled(recipe, config)
        if idle := nothing_to_train_on(work, said, f"policies/{method}"):
            return result(work, idle)
        trained = result(work, train(work, said))
        folder = work.settings.policies / policy_name(work, config.name or method)
        placed = trained._replace(metadata={**trained.metadata, "folder": str(folder)})
        return with_picture(placed, folder / "curves.png")

    return policy


dpo = policy_asset(
    "dpo", "The round's policy after DPO on its pairs.", rows=pairs, train=train_dpo_policy, recipe=DpoRecipe
)
sft = policy_asset(
    "sft",
    "The round's policy after supervised training on its answers to imitate, or on R3L's rows.",
    rows=best_answers,
    train=train_sft_policy,
    recipe=SftRecipe,
)
treg = policy_asset(
    "treg",
    "The round's policy after preference training with token rewards (T-REG).",
    rows=token_rewards,
    train=train_treg_policy,
    recipe=TRegRecipe,
)
int_sft = policy_asset(
    "int",
    "The round's policy after supervised training on interventions (InT).",
    rows=patches,
    train=train_int_policy,
    recipe=IntRecipe,
)


def eval_asset(
    method: str, *, trained: dg.AssetsDefinition | None = None, recipe: RunRecipe | None = None
) -> dg.AssetsDefinition:
    """The evaluation of the round's policy, or of one trained from it by a recipe."""

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
            if idle := nothing_to_train_on(work, recipe, policy_name(work, method)):
                for place in work.places("evals", stage=policy_name(work, method)):
                    work.store.drop("evals", place)
                return result(work, dataclasses.replace(idle, rows={"evals": 0}), tables=("evals",))
            form = EvalConfig(**{**config.model_dump(), "baseline": workplace.policy})
            work = workplace.open(context, policy=policy_name(work, method))
        return result(work, write_evals(work, form), tables=("evals",))

    return evals


evals = [
    eval_asset("policy"),
    eval_asset("dpo", trained=dpo, recipe=DpoRecipe()),
    eval_asset("int", trained=int_sft, recipe=IntRecipe()),
    eval_asset("treg", trained=treg, recipe=TRegRecipe()),
]
sft_evals = eval_asset("sft", trained=sft, recipe=SftRecipe())


Prm, PrmEvals = launch_form(PrmRecipe), launch_form(PrmEvalConfig)


@round_asset(
    "policies",
    "prm",
    deps=[prm_steps],
    group="train",
    kinds={"transformers", "pytorch"},
    owners=OWNERS,
    pool="gpu",
)
def prm(context: dg.AssetExecutionContext, config: Prm, workplace: Workplace) -> dg.MaterializeResult:
    """A process reward model, which scores the steps of an attempt, on the round's labelled steps."""
    work, recipe = workplace.open(context), filled(PrmRecipe, config)
    if idle := nothing_to_train_on(work, recipe, "policies/prm"):
        return result(work, idle)
    trained = result(work, train_prm_model(work, recipe))
    folder = prm_folder(prm_name(work, recipe), policies=work.settings.policies)
    placed = trained._replace(metadata={**trained.metadata, "folder": str(folder)})
    return with_picture(placed, folder / "curves.png")


@round_asset(
    "evals",
    "prm",
    deps=[tasks, prm],
    group="evaluate",
    kinds={"vllm", "parquet"},
    owners=OWNERS,
    tables=("evals",),
    pool="gpu",
)
def prm_evals(context: dg.AssetExecutionContext, config: PrmEvals, workplace: Workplace) -> dg.MaterializeResult:
    """Held-out answers before the process reward model: first wrong steps, RewardMATH, best of n against a majority."""
    work = workplace.open(context)
    name = config.prm or prm_name(work, PrmRecipe())
    if idle := nothing_to_train_on(work, PrmRecipe(), f"prm-{name}"):
        return result(work, dataclasses.replace(idle, rows={"evals": 0}), tables=("evals",))
    form = PrmEvalConfig(**{**config.model_dump(), "prm": name})
    return result(work, write_prm_evals(work, form), tables=("evals",))
