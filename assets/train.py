"""Policies trained on a round's rows, and their evaluation on the held-out split."""

from pathlib import Path

import dagster as dg

from assets.build import pairs, patches
from assets.generate import tasks
from assets.partitions import suite_rounds
from assets.resources import Workplace
from assets.tables import filled, launch_form, result, table_checks, table_metadata
from pipeline.stages.evals import EvalConfig, write_evals
from trainers.stages import DpoRecipe, IntRecipe, policy_name, train_dpo_policy, train_int_policy

Dpo, Int, Evals = launch_form(DpoRecipe), launch_form(IntRecipe), launch_form(EvalConfig)

OWNERS = ["team:training"]


def _with_curves(materialised: dg.MaterializeResult, folder: Path) -> dg.MaterializeResult:
    """The same result, pointing at the picture of the run."""
    return materialised._replace(
        metadata={
            **materialised.metadata,
            "folder": str(folder),
            "curves": dg.MetadataValue.path(str(folder / "curves.png")),
        }
    )


@dg.asset(
    key=["policies", "dpo"],
    deps=[pairs],
    partitions_def=suite_rounds,
    group_name="train",
    kinds={"trl", "pytorch"},
    owners=OWNERS,
    code_version="1",
    pool="gpu",
)
def dpo(context: dg.AssetExecutionContext, config: Dpo, workplace: Workplace) -> dg.MaterializeResult:
    """The round's policy after DPO on its pairs."""
    work = workplace.open(context)
    report = train_dpo_policy(work, filled(DpoRecipe, config))
    return _with_curves(result(work, report), work.settings.policies / policy_name(work, "dpo"))


@dg.asset(
    key=["policies", "int"],
    deps=[patches],
    partitions_def=suite_rounds,
    group_name="train",
    kinds={"trl", "pytorch"},
    owners=OWNERS,
    code_version="1",
    pool="gpu",
)
def int_sft(context: dg.AssetExecutionContext, config: Int, workplace: Workplace) -> dg.MaterializeResult:
    """The round's policy after supervised training on interventions (InT)."""
    work = workplace.open(context)
    report = train_int_policy(work, filled(IntRecipe, config))
    return _with_curves(result(work, report), work.settings.policies / policy_name(work, "int"))


def eval_asset(method: str, *, trained: dg.AssetsDefinition | None) -> dg.AssetsDefinition:
    """The evaluation of the round's policy, or of one trained from it."""

    @dg.asset(
        key=["evals", method],
        deps=[tasks, *([trained] if trained else [])],
        partitions_def=suite_rounds,
        group_name="evaluate",
        kinds={"vllm", "parquet"},
        owners=OWNERS,
        code_version="1",
        pool="gpu",
        description=(
            "pass@k on the held-out split, with 95 % intervals over tasks"
            + (", and the gain over the round's policy task by task." if trained else ".")
        ),
        metadata=table_metadata("evals"),
        check_specs=table_checks(["evals", method], "evals"),
    )
    def evals(context: dg.AssetExecutionContext, config: Evals, workplace: Workplace) -> dg.MaterializeResult:
        work = workplace.open(context)
        form = filled(EvalConfig, config)
        if trained:
            form = EvalConfig(**{**config.model_dump(), "baseline": workplace.policy})
            work = workplace.open(context, policy=policy_name(work, method))
        return result(work, write_evals(work, form), tables=("evals",))

    return evals


evals = [eval_asset("policy", trained=None), eval_asset("dpo", trained=dpo), eval_asset("int", trained=int_sft)]
