"""Credit, one asset a method, and step labels, one asset a labeller."""

import dagster as dg

from assets.generate import verdicts
from assets.resources import Workplace
from assets.score import scores_for
from assets.tables import result, round_asset, said, with_picture
from pipeline.credit import METHODS, in_every_round, labelled
from pipeline.judges import JUDGES
from pipeline.labels import LABELLERS
from pipeline.labels.given import GIVEN
from pipeline.stages.agreement import draw_agreement, write_agreement
from pipeline.stages.credit import CreditConfig, write_credit
from pipeline.stages.judge import JudgeConfig, write_judgements
from pipeline.stages.label_agreement import beyond_chance, draw_label_agreement, write_label_agreement
from pipeline.stages.step_labels import StepLabelConfig, write_step_labels

OWNERS = ["team:data"]


def credit_asset(method: str) -> dg.AssetsDefinition:
    """The asset of one credit method."""

    @round_asset(
        "credit",
        method,
        deps=[verdicts, *(labels if labelled(METHODS[method]) else ()), *scores_for(METHODS[method])],
        group="credit",
        kinds={"numpy", "parquet"},
        owners=OWNERS,
        tables=("credit",),
        description=said(METHODS[method].function),
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
        group="label",
        kinds={"polars", "parquet"},
        owners=OWNERS,
        tables=("step_labels",),
        description=said(LABELLERS[labeller]),
    )
    def step_labels(context: dg.AssetExecutionContext, workplace: Workplace) -> dg.MaterializeResult:
        work = workplace.open(context)
        return result(work, write_step_labels(work, StepLabelConfig(labeller)), tables=("step_labels",))

    return step_labels


class Judgement(dg.Config):
    """How a judge is asked: parameters as JSON, attempts of a task (0: all), the pack whose words are used, whether the
    engine holds answers in JSON to their schema.
    """

    params: str = JudgeConfig().params
    per_task: int = JudgeConfig().per_task
    prompts: str = JudgeConfig().prompts
    guided: bool = JudgeConfig().guided


def judge_asset(judge: str) -> dg.AssetsDefinition:
    """The asset of one judge."""
    tables = ("step_labels", "requests") if judge in GIVEN else ("requests",)

    @round_asset(
        "judge",
        judge,
        deps=[verdicts],
        group="label",
        kinds={"vllm", "parquet"},
        owners=OWNERS,
        tables=tables,
        description=said(JUDGES[judge]),
        pool="gpu",
    )
    def judgement(context: dg.AssetExecutionContext, config: Judgement, workplace: Workplace) -> dg.MaterializeResult:
        work = workplace.open(context)
        (report,) = write_judgements(work, JudgeConfig((judge,), **config.model_dump()))
        return result(work, report, tables=tables)

    return judgement


labels = [step_label_asset(labeller) for labeller in LABELLERS if labeller not in GIVEN]
judges = [judge_asset(judge) for judge in JUDGES]
"""The workplace's policy is the model that judges."""
judges_of_every_round = [asset for asset, judge in zip(judges, JUDGES, strict=True) if judge == "genprm"]
"""What the embedded policy was trained to answer; the other judges want an instruct model."""
credits = [credit_asset(method) for method in METHODS]
credits_of_every_round = [
    asset for asset, method in zip(credits, METHODS.values(), strict=True) if in_every_round(method)
]
"""What a suite without an environment or tools has all inputs of; the rest fails there and says what it lacks."""


@round_asset(
    deps=[*credits_of_every_round, *labels],
    group="credit",
    kinds={"polars", "parquet"},
    owners=OWNERS,
    tables=("evals",),
)
def agreement(context: dg.AssetExecutionContext, workplace: Workplace) -> dg.MaterializeResult:
    """The credit report: each credit method and labeller against the oracle of sums and the others, and its cost."""
    work = workplace.open(context)
    done = result(work, write_agreement(work), tables=("evals",))
    return with_picture(done, draw_agreement(work))


AGREES = "labels_agree_with_the_oracle"


@round_asset(
    deps=[*labels, *(asset for asset, judge in zip(judges, JUDGES, strict=True) if judge in GIVEN)],
    group="label",
    kinds={"polars", "parquet"},
    owners=OWNERS,
    tables=("evals",),
    checks=(dg.AssetCheckSpec(AGREES, asset="label_agreement", description=beyond_chance.__doc__),),
)
def label_agreement(context: dg.AssetExecutionContext, workplace: Workplace) -> dg.MaterializeResult:
    """The label report: each labeller against the oracle of sums and the others, and its cost."""
    work = workplace.open(context)
    done = result(work, write_label_agreement(work), tables=("evals",))
    passed, detail = beyond_chance(work)
    found = dg.AssetCheckResult(
        passed=passed, check_name=AGREES, description=detail, severity=dg.AssetCheckSeverity.WARN
    )
    done = with_picture(done, draw_label_agreement(work))
    return done._replace(check_results=[*done.check_results, found])
