"""Credit, one asset a method, and step labels, one asset a labeller."""

import dagster as dg

from assets.generate import verdicts
from assets.resources import Workplace
from assets.tables import result, round_asset
from pipeline.credit import METHODS, in_every_round, labelled
from pipeline.labels import LABELLERS
from pipeline.stages.agreement import draw_agreement, write_agreement
from pipeline.stages.credit import CreditConfig, write_credit
from pipeline.stages.step_labels import StepLabelConfig, write_step_labels

OWNERS = ["team:data"]


def credit_asset(method: str) -> dg.AssetsDefinition:
    """The asset of one credit method."""

    @round_asset(
        "credit",
        method,
        deps=[verdicts, *(labels if labelled(METHODS[method]) else ())],
        group="annotate",
        kinds={"numpy", "parquet"},
        owners=OWNERS,
        tables=("credit",),
        description=(METHODS[method].function.__doc__ or "").strip().split("\n\n")[0],
    )
    def credit(context: dg.AssetExecutionContext, workplace: Workplace) -> dg.MaterializeResult:
        work = workplace.open(context)
        (report,) = write_credit(work, CreditConfig((method,)))
        return result(work, report, tables=("credit",))

    return credit


def step_label_asset(labeller: str) -> dg.AssetsDefinition:
    """The asset of one labeller."""

    @round_asset(
        "step_labels",
        labeller,
        deps=[verdicts],
        group="annotate",
        kinds={"polars", "parquet"},
        owners=OWNERS,
        tables=("step_labels",),
        description=(LABELLERS[labeller].__doc__ or "").strip().split("\n\n")[0],
    )
    def step_labels(context: dg.AssetExecutionContext, workplace: Workplace) -> dg.MaterializeResult:
        work = workplace.open(context)
        return result(work, write_step_labels(work, StepLabelConfig(labeller)), tables=("step_labels",))

    return step_labels


labels = [step_label_asset(labeller) for labeller in LABELLERS]
credits = [credit_asset(method) for method in METHODS]
credits_of_every_round = [
    asset for asset, method in zip(credits, METHODS.values(), strict=True) if in_every_round(method)
]
"""What a suite without an environment or tools has all inputs of; the rest fails there and says what it lacks."""


@round_asset(
    deps=[*credits_of_every_round, *labels],
    group="annotate",
    kinds={"polars", "parquet"},
    owners=OWNERS,
    tables=("evals",),
)
def agreement(context: dg.AssetExecutionContext, workplace: Workplace) -> dg.MaterializeResult:
    """The credit report: each credit method and labeller against the oracle of sums and the others, and its cost."""
    work = workplace.open(context)
    done = result(work, write_agreement(work), tables=("evals",))
    picture = dg.MetadataValue.path(str(draw_agreement(work)))
    return done._replace(metadata={**done.metadata, "picture": picture})
