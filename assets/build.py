"""Training rows."""

import dagster as dg

from assets.annotate import labels
from assets.generate import verdicts
from assets.resources import Workplace
from assets.tables import filled, launch_form, result, round_asset
from pipeline.stages.best_answers import BestAnswerConfig, write_best_answers
from pipeline.stages.pairs import PairConfig, write_pairs
from pipeline.stages.patches import PatchConfig, write_patches
from pipeline.stages.prm_steps import PrmStepsConfig, write_prm_steps
from pipeline.stages.retry_rows import RetryRowConfig, write_retry_rows
from pipeline.stages.rl_prompts import RlPromptConfig, write_rl_prompts
from pipeline.stages.role_rows import RoleRowConfig, write_role_rows
from pipeline.stages.sessions import SessionConfig, write_sessions
from pipeline.stages.unpaired import UnpairedConfig, write_unpaired

Pairs, Patches = launch_form(PairConfig), launch_form(PatchConfig)

OWNERS = ["team:data"]


@round_asset(deps=[verdicts], group="build", kinds={"parquet"}, owners=OWNERS, tables=("pairs",))
def pairs(context: dg.AssetExecutionContext, config: Pairs, workplace: Workplace) -> dg.MaterializeResult:
    """Preference pairs: right against wrong answers and branches, variants against their sources, roles' outputs."""
    work = workplace.open(context)
    return result(work, write_pairs(work, filled(PairConfig, config)), tables=("pairs",))


@round_asset(deps=[verdicts], group="build", kinds={"parquet"}, owners=OWNERS, tables=("patches",))
def patches(context: dg.AssetExecutionContext, config: Patches, workplace: Workplace) -> dg.MaterializeResult:
    """InT rows: a right prefix and the one step written in place of the first wrong one."""
    work = workplace.open(context)
    return result(work, write_patches(work, filled(PatchConfig, config)), tables=("patches",))


RetryRows, RoleRows = launch_form(RetryRowConfig), launch_form(RoleRowConfig)


@round_asset(deps=[verdicts], group="build", kinds={"parquet"}, owners=OWNERS, tables=("rl_samples",))
def retry_rows(context: dg.AssetExecutionContext, config: RetryRows, workplace: Workplace) -> dg.MaterializeResult:
    """R3L rows: attempts and distilled retries with their advantages, and the reflections that led to a success."""
    work = workplace.open(context)
    return result(work, write_retry_rows(work, filled(RetryRowConfig, config)), tables=("rl_samples",))


@round_asset(deps=[verdicts], group="build", kinds={"parquet"}, owners=OWNERS, tables=("sft",))
def role_rows(context: dg.AssetExecutionContext, config: RoleRows, workplace: Workplace) -> dg.MaterializeResult:
    """MALT rows: the good outputs of every role, each in its own context."""
    work = workplace.open(context)
    return result(work, write_role_rows(work, filled(RoleRowConfig, config)), tables=("sft",))


PrmSteps = launch_form(PrmStepsConfig)


@round_asset(deps=[verdicts, *labels], group="build", kinds={"parquet"}, owners=OWNERS, tables=("prm_steps",))
def prm_steps(context: dg.AssetExecutionContext, config: PrmSteps, workplace: Workplace) -> dg.MaterializeResult:
    """Attempts with a label a step, for process reward models."""
    work = workplace.open(context)
    return result(work, write_prm_steps(work, filled(PrmStepsConfig, config)), tables=("prm_steps",))


BestAnswers = launch_form(BestAnswerConfig)


@round_asset(deps=[verdicts], group="build", kinds={"parquet"}, owners=OWNERS, tables=("sft",))
def best_answers(context: dg.AssetExecutionContext, config: BestAnswers, workplace: Workplace) -> dg.MaterializeResult:
    """The best right answers of every task, to be imitated."""
    work = workplace.open(context)
    return result(work, write_best_answers(work, filled(BestAnswerConfig, config)), tables=("sft",))


Unpaired = launch_form(UnpairedConfig)


@round_asset(deps=[verdicts], group="build", kinds={"parquet"}, owners=OWNERS, tables=("unpaired",))
def unpaired(context: dg.AssetExecutionContext, config: Unpaired, workplace: Workplace) -> dg.MaterializeResult:
    """Right and wrong answers, each by itself, for KTO."""
    work = workplace.open(context)
    return result(work, write_unpaired(work, filled(UnpairedConfig, config)), tables=("unpaired",))


RlPrompts = launch_form(RlPromptConfig)


@round_asset(deps=[verdicts], group="build", kinds={"parquet"}, owners=OWNERS, tables=("rl_prompts",))
def rl_prompts(context: dg.AssetExecutionContext, config: RlPrompts, workplace: Workplace) -> dg.MaterializeResult:
    """Prompts with how often their answers were right, for online RL."""
    work = workplace.open(context)
    return result(work, write_rl_prompts(work, filled(RlPromptConfig, config)), tables=("rl_prompts",))


Sessions = launch_form(SessionConfig)


@round_asset(deps=[verdicts], group="build", kinds={"parquet"}, owners=OWNERS, tables=("sessions",))
def sessions(context: dg.AssetExecutionContext, config: Sessions, workplace: Workplace) -> dg.MaterializeResult:
    """Paths to be read by people: of every tree the first leaf of each reward, as session files."""
    work = workplace.open(context)
    return result(work, write_sessions(work, filled(SessionConfig, config)), tables=("sessions",))
