"""Tasks, and everything that asks an engine for tokens."""

import dagster as dg

from assets.partitions import suite_rounds
from assets.resources import Workplace
from assets.tables import filled, launch_form, result, table_checks, table_metadata
from pipeline.stages.interventions import InterventionConfig, write_interventions
from pipeline.stages.retries import RetryConfig, write_retries
from pipeline.stages.rollouts import RolloutConfig, write_rollouts
from pipeline.stages.tasks import write_tasks
from pipeline.stages.trees import TreeConfig, write_trees
from pipeline.stages.verdicts import write_verdicts

Rollouts, Trees = launch_form(RolloutConfig), launch_form(TreeConfig)
Retries, Interventions = launch_form(RetryConfig), launch_form(InterventionConfig)

OWNERS = ["team:generation"]
RETRY = dg.RetryPolicy(max_retries=1, delay=10)


@dg.asset(
    partitions_def=suite_rounds,
    group_name="tasks",
    kinds={"parquet"},
    owners=OWNERS,
    code_version="1",
    metadata=table_metadata("tasks"),
    check_specs=table_checks("tasks", "tasks"),
)
def tasks(context: dg.AssetExecutionContext, workplace: Workplace) -> dg.MaterializeResult:
    """Questions with checkable answers: the suite's own, in bands of difficulty, train and held out."""
    work = workplace.open(context)
    return result(work, write_tasks(work), tables=("tasks",))


@dg.asset(
    deps=[tasks],
    partitions_def=suite_rounds,
    group_name="generate",
    kinds={"vllm", "parquet"},
    owners=OWNERS,
    code_version="1",
    pool="gpu",
    retry_policy=RETRY,
    metadata=table_metadata("nodes", "verdicts", "requests"),
    check_specs=table_checks("rollouts", "nodes", "verdicts", "requests"),
)
def rollouts(context: dg.AssetExecutionContext, config: Rollouts, workplace: Workplace) -> dg.MaterializeResult:
    """Groups of plain samples from every training task, cut into steps on exact token borders, and judged."""
    work = workplace.open(context)
    report = write_rollouts(work, filled(RolloutConfig, config))
    return result(work, report, tables=("nodes", "verdicts", "requests"))


@dg.asset(
    deps=[rollouts],
    partitions_def=suite_rounds,
    group_name="generate",
    kinds={"vllm", "parquet"},
    owners=OWNERS,
    code_version="1",
    pool="gpu",
    retry_policy=RETRY,
    metadata=table_metadata("nodes", "verdicts", "requests"),
    check_specs=table_checks("trees", "nodes", "verdicts", "requests"),
)
def trees(context: dg.AssetExecutionContext, config: Trees, workplace: Workplace) -> dg.MaterializeResult:
    """Branches from the inner steps of right and wrong attempts: the tree that values and labels are read from."""
    work = workplace.open(context)
    report = write_trees(work, filled(TreeConfig, config))
    return result(work, report, tables=("nodes", "verdicts", "requests"))


@dg.asset(
    deps=[trees],
    partitions_def=suite_rounds,
    group_name="generate",
    kinds={"vllm", "parquet"},
    owners=OWNERS,
    code_version="1",
    pool="gpu",
    retry_policy=RETRY,
    metadata=table_metadata("variants", "nodes", "verdicts", "requests"),
    check_specs=table_checks("retries", "variants", "nodes", "verdicts", "requests"),
)
def retries(context: dg.AssetExecutionContext, config: Retries, workplace: Workplace) -> dg.MaterializeResult:
    """Failed attempts reflected on and tried again (R3L), guided and distilled."""
    work = workplace.open(context)
    report = write_retries(work, filled(RetryConfig, config))
    return result(work, report, tables=("variants", "nodes", "verdicts", "requests"))


@dg.asset(
    deps=[retries],
    partitions_def=suite_rounds,
    group_name="generate",
    kinds={"vllm", "parquet"},
    owners=OWNERS,
    code_version="1",
    pool="gpu",
    retry_policy=RETRY,
    metadata=table_metadata("variants", "nodes", "verdicts", "requests"),
    check_specs=table_checks("interventions", "variants", "nodes", "verdicts", "requests"),
)
def interventions(
    context: dg.AssetExecutionContext, config: Interventions, workplace: Workplace
) -> dg.MaterializeResult:
    """One-step interventions on failed attempts (InT), each with the effect of its two arms."""
    work = workplace.open(context)
    report = write_interventions(work, filled(InterventionConfig, config))
    return result(work, report, tables=("variants", "nodes", "verdicts", "requests"))


@dg.asset(
    deps=[rollouts, trees, retries, interventions],
    partitions_def=suite_rounds,
    group_name="verify",
    kinds={"python", "parquet"},
    owners=["team:data"],
    code_version="1",
    metadata=table_metadata("verdicts"),
    check_specs=table_checks("verdicts", "verdicts"),
)
def verdicts(context: dg.AssetExecutionContext, workplace: Workplace) -> dg.MaterializeResult:
    """Every answer of the round judged by the suite's present verifier; only what lacked a verdict is judged here."""
    work = workplace.open(context)
    return result(work, write_verdicts(work), tables=("verdicts",))
