"""Credit, one asset a method, and step labels, one asset a labeller."""

import dagster as dg

from assets.generate import verdicts
from assets.partitions import suite_rounds
from assets.resources import Workplace
from assets.tables import result, table_checks, table_metadata
from pipeline.credit import METHODS
from pipeline.labels import LABELLERS
from pipeline.stages.agreement import write_agreement
from pipeline.stages.credit import CreditConfig, write_credit
from pipeline.stages.step_labels import StepLabelConfig, write_step_labels

OWNERS = ["team:data"]


def credit_asset(method: str) -> dg.AssetsDefinition:
    """The asset of one credit method."""

    @dg.asset(
        key=["credit", method],
        deps=[verdicts],
        partitions_def=suite_rounds,
        group_name="annotate",
        kinds={"numpy", "parquet"},
        owners=OWNERS,
        code_version="1",
        description=(METHODS[method].function.__doc__ or "").strip().split("\n\n")[0],
        metadata=table_metadata("credit"),
        check_specs=table_checks(["credit", method], "credit"),
    )
    def credit(context: dg.AssetExecutionContext, workplace: Workplace) -> dg.MaterializeResult:
        work = workplace.open(context)
        return result(work, write_credit(work, CreditConfig(method)), tables=("credit",))

    return credit


def step_label_asset(labeller: str) -> dg.AssetsDefinition:
    """The asset of one labeller."""

    @dg.asset(
        key=["step_labels", labeller],
        deps=[verdicts],
        partitions_def=suite_rounds,
        group_name="annotate",
        kinds={"polars", "parquet"},
        owners=OWNERS,
        code_version="1",
        description=(LABELLERS[labeller].__doc__ or "").strip().split("\n\n")[0],
        metadata=table_metadata("step_labels"),
        check_specs=table_checks(["step_labels", labeller], "step_labels"),
    )
    def step_labels(context: dg.AssetExecutionContext, workplace: Workplace) -> dg.MaterializeResult:
        work = workplace.open(context)
        return result(work, write_step_labels(work, StepLabelConfig(labeller)), tables=("step_labels",))

    return step_labels


credits = [credit_asset(method) for method in METHODS]
labels = [step_label_asset(labeller) for labeller in LABELLERS]


@dg.asset(
    deps=[*credits, *labels],
    partitions_def=suite_rounds,
    group_name="annotate",
    kinds={"polars", "parquet"},
    owners=OWNERS,
    code_version="1",
    metadata=table_metadata("evals"),
    check_specs=table_checks("agreement", "evals"),
)
def agreement(context: dg.AssetExecutionContext, workplace: Workplace) -> dg.MaterializeResult:
    """How well each credit method and labeller ranks the first wrong step, against the exact oracle of sums."""
    work = workplace.open(context)
    return result(work, write_agreement(work), tables=("evals",))
