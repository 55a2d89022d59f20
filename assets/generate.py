"""Tasks, and everything that asks an engine for tokens."""

from collections.abc import Callable

import dagster as dg

from assets.resources import Workplace
from assets.tables import filled, launch_form, result, round_asset
from pipeline.report import Report
from pipeline.stages.episodes import EpisodeConfig, write_episodes
from pipeline.stages.interventions import InterventionConfig, write_interventions
from pipeline.stages.regenerations import RegenerationConfig, write_regenerations
from pipeline.stages.retries import RetryConfig, write_retries
from pipeline.stages.roles import RoleConfig, write_roles
from pipeline.stages.rollouts import RolloutConfig, write_rollouts
from pipeline.stages.summaries import SummaryConfig, write_summaries
from pipeline.stages.tasks import write_tasks
from pipeline.stages.trees import TreeConfig, write_trees
from pipeline.stages.verdicts import write_verdicts
from pipeline.stages.work import Work

OWNERS = ["team:generation"]


@round_asset(group="tasks", kinds={"parquet"}, owners=OWNERS, tables=("tasks",))
def tasks(context: dg.AssetExecutionContext, workplace: Workplace) -> dg.MaterializeResult:
    """Questions with checkable answers: the suite's own, in bands of difficulty, train and held out."""
    work = workplace.open(context)
    return result(work, write_tasks(work), tables=("tasks",))


def generating_asset(
    name: str,
    description: str,
    *,
    write: Callable[[Work, object], Report],
    settings: type,
    after: dg.AssetsDefinition,
    tables: tuple[str, ...],
) -> dg.AssetsDefinition:
    """The asset of a stage that asks an engine; `settings` becomes its launchpad form."""
    form = launch_form(settings)

    @round_asset(
        name,
        description=description,
        deps=[after],
        group="generate",
        kinds={"vllm", "parquet"},
        owners=OWNERS,
        tables=tables,
        pool="gpu",
    )
    def generate(context: dg.AssetExecutionContext, config: form, workplace: Workplace) -> dg.MaterializeResult:
        work = workplace.open(context)
        return result(work, write(work, filled(settings, config)), tables=tables)

    return generate


GROWN = ("nodes", "verdicts", "requests")

rollouts = generating_asset(
    "rollouts",
    "Groups of plain samples from every training task, cut into steps on exact token borders, and judged.",
    write=write_rollouts,
    settings=RolloutConfig,
    after=tasks,
    tables=GROWN,
)
episodes = generating_asset(
    "episodes",
    "Every task played in its suite's environment, turn by turn, on exact token borders: the rollouts of such suites.",
    write=write_episodes,
    settings=EpisodeConfig,
    after=tasks,
    tables=GROWN,
)
trees = generating_asset(
    "trees",
    "Branches from the inner steps of right and wrong attempts: the tree that values and labels are read from.",
    write=write_trees,
    settings=TreeConfig,
    after=rollouts,
    tables=GROWN,
)
retries = generating_asset(
    "retries",
    "Failed attempts reflected on and tried again (R3L), guided and distilled.",
    write=write_retries,
    settings=RetryConfig,
    after=trees,
    tables=("variants", *GROWN),
)
interventions = generating_asset(
    "interventions",
    "One-step interventions on failed attempts (InT), each with the effect of its two arms.",
    write=write_interventions,
    settings=InterventionConfig,
    after=retries,
    tables=("variants", *GROWN),
)
regenerations = generating_asset(
    "regenerations",
    "Attempts that a discriminator rejects, cut before their first flawed step and drawn anew (Search-R2).",
    write=write_regenerations,
    settings=RegenerationConfig,
    after=interventions,
    tables=("variants", *GROWN),
)
roles = generating_asset(
    "roles",
    "Trees of roles (MALT): answers, checks of each answer, new answers in view of both.",
    write=write_roles,
    settings=RoleConfig,
    after=regenerations,
    tables=("variants", *GROWN),
)
summaries = generating_asset(
    "summaries",
    "Attempts cut at token budgets and made to answer at once (anytime summaries of BRPO).",
    write=write_summaries,
    settings=SummaryConfig,
    after=roles,
    tables=("variants", *GROWN),
)


@round_asset(
    deps=[rollouts, episodes, trees, retries, interventions, regenerations, roles, summaries],
    group="verify",
    kinds={"python", "parquet"},
    owners=["team:data"],
    tables=("verdicts",),
)
def verdicts(context: dg.AssetExecutionContext, workplace: Workplace) -> dg.MaterializeResult:
    """Every answer of the round judged by the suite's present verifier; only what lacked a verdict is judged here."""
    work = workplace.open(context)
    return result(work, write_verdicts(work), tables=("verdicts",))
