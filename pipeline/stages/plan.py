"""Stage: what the rollouts of a suite, and trees grown from them, will cost and bring, from a few of its tasks.

The pilot runs the stages themselves, on a store of its own in a temporary folder that shares the ledger. So it writes
none of their shards, what it samples is not paid again by the round, and its figures are read as the round's will be.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from pipeline.errors import BadConfig, check_counts
from pipeline.generation.budget.spending import Priced
from pipeline.generation.engines import engine_fingerprint
from pipeline.generation.reuse import Answered, least_prefill, unique_tokens
from pipeline.plan import FIGURES
from pipeline.plan.forecast import Drawn, expected_prefill, expected_tasks, expected_total, pick
from pipeline.plan.measure import EPISODES, made_by_task, spent_by_task
from pipeline.plan.pace import Pace
from pipeline.report import Report
from pipeline.stages.episodes import EpisodeConfig, write_episodes
from pipeline.stages.pairs import write_pairs
from pipeline.stages.params import read_json_params
from pipeline.stages.playing import environment_of
from pipeline.stages.rollouts import STAGE as ROLLOUTS
from pipeline.stages.rollouts import RolloutConfig, write_rollouts
from pipeline.stages.step_labels import StepLabelConfig, write_step_labels
from pipeline.stages.trees import STAGE as TREES
from pipeline.stages.trees import TreeConfig, write_trees
from pipeline.stages.work import Shards, Work, check_answered, inputs, shards_of
from pipeline.statistics import MeanInterval
from pipeline.store.layout import EVERY_ROUND, Place
from pipeline.tasks.verifiers import VERSION as VERIFIER_VERSION
from schemas import Evals
from schemas.base import column_types

STAGE = "plan"
VERSION = "1"
SPLIT = "train"
_REPORTED = ("requests", "prompt_tokens", "computed_tokens", "decoded_tokens", "seconds", "cost", "judged_leaves")
_REPORTED += ("mixed_tasks", "step_labels", "pairs")


@dataclass(frozen=True, slots=True)
class PlanConfig(Priced):
    """pilot: tasks that are tried, spread over the bands. strategy: of the rollouts. group: samples a task, for
    strategies that take it, or episodes. temperature: none: as the strategy and the rule have it. top_p: likewise.
    params: JSON object of what the strategy, or episodes, shall have otherwise. rule: where trees grow further; without
    one, rollouts alone are planned. attempts: forked a task, for rules that take it. branches: from each fork,
    likewise. rule_params: JSON object of what the rule shall have otherwise. continuations: that a step must have for
    its label to count.
    """

    pilot: int = 8
    strategy: str = "flat"
    group: int = 8
    temperature: float | None = None
    top_p: float | None = None
    params: str = ""
    rule: str = ""
    attempts: int = 2
    branches: int = 4
    rule_params: str = ""
    continuations: int = 1

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that are planned."""
        return (ROLLOUTS, TREES) if self.rule else (ROLLOUTS,)


def write_plan(work: Work, config: PlanConfig = PlanConfig()) -> Report:
    """Try a few training tasks and store what the suite is expected to take, as rows of evaluations. Those of a suite
    with an environment are played.

    Raises:
        BadConfig: there is no such strategy or rule, or one for a suite with an environment; a parameter is not one of
            its; the suite has no training tasks.
        BadModel: requests failed that another time may be answered, which the figures would leave out.
    """
    check_counts(config, pilot=1, continuations=1)
    by_shard, environment = work.shards(), work.suite.environment
    if environment is not None and (config.strategy != PlanConfig().strategy or config.rule):
        culprit = f"suite {work.suite.name} is played in an environment"
        raise BadConfig(culprit, remedy="leave --strategy and --rule out")
    played = {} if environment is None else {"environment": environment_of(work, environment.open())}
    made_from = inputs(
        VERSION,
        config=config,
        policy=engine_fingerprint(work.engine, work.policy),
        prompts=work.pack.digest,
        reading=f"{work.suite.max_tokens} {work.suite.separator!r}",
        tasks=" ".join(work.store.tasks_digest(work.suite.name, shard) for shard in by_shard),
        verifier=VERIFIER_VERSION,
        **played,
    )
    shards, tasks = Shards(work, STAGE, ("evals",)), pl.concat(by_shard.values())
    for name, _, parts in shards.stale({SPLIT: None}, lambda shard: made_from):
        chosen, drawn = _choose(tasks, config.pilot)
        figures = {"tasks": MeanInterval(tasks.height, None, None), **_try(work, config, chosen, drawn)}
        rows = [
            {"policy": STAGE, "suite": work.suite.name, "split": SPLIT, "metric": metric, "count": chosen.height}
            | {"value": found.mean, "low": found.low, "high": found.high}
            for metric, found in figures.items()
        ]
        shards.write(name, parts, evals=pl.DataFrame(rows, schema=column_types(Evals), orient="row"))
    evals = shards.read("evals")
    expected = dict(evals.select("metric", "value").iter_rows())
    numbers = {name: None if expected[name] is None else _whole(name, expected[name]) for name in _REPORTED}
    return shards.finish(pilot=int(evals["count"][0]), **numbers)


def _whole(name: str, value: float) -> float | int:
    """A count as one."""
    return value if name in ("seconds", "cost") else round(value)


def _choose(tasks: pl.DataFrame, most: int) -> tuple[pl.DataFrame, Drawn]:
    """The tasks of the pilot, in order, and which part of the suite they are."""
    bands = [rows.sort("task") for _, rows in tasks.sort("band").group_by("band", maintain_order=True)]
    places = pick(np.array([rows.height for rows in bands]), most)
    some = [
        rows[at.tolist()].with_columns(number=pl.lit(at_band))
        for at_band, (rows, at) in enumerate(zip(bands, places, strict=True))
    ]
    chosen = pl.concat(some).sort("task")
    return chosen.drop("number"), Drawn(chosen["number"].to_numpy(), np.array([rows.height for rows in bands]))


def _try(work: Work, config: PlanConfig, tasks: pl.DataFrame, drawn: Drawn) -> dict[str, MeanInterval]:
    """Run the pilot, and count it up to the suite."""
    pace = Pace(work.on_progress)
    with _beside(replace(work, on_progress=pace), tasks) as pilot:
        sampling = {"temperature": config.temperature, "top_p": config.top_p}
        if pilot.suite.environment is None:
            rollouts = RolloutConfig(config.strategy, config.group, params=config.params, **sampling)
            check_answered([write_rollouts(pilot, rollouts)])
        else:
            check_answered([write_episodes(pilot, _episodes(config))])
        if config.rule:
            grown = TreeConfig(config.rule, config.attempts, config.branches, params=config.rule_params, **sampling)
            check_answered([write_trees(pilot, grown)])
        labels = StepLabelConfig()
        write_step_labels(pilot, labels)
        write_pairs(pilot)
        of = (pilot.store, pilot.suite.name, pilot.round)
        made = made_by_task(*of, stages=config.stages, labeller=labels.labeller, continuations=config.continuations)
        stages = [_stage_figures(pilot, stage, tasks, pace) for stage in config.stages]
    found = {name: sum(one.by_task[name] for one in stages) for name in stages[0].by_task}
    by_task = tasks.select("task").join(made, on="task", how="left", maintain_order="left").fill_null(0)
    found |= {name: by_task[name].to_numpy().astype(np.float64) for name in made.columns if name != "task"}
    asked = {"prompt": found["prompt_tokens"], "decoded": found["decoded_tokens"], "seconds": found["seconds"]}
    cost = config.prices.cost(**asked)
    found["cost"] = np.full(tasks.height, np.nan) if cost is None else cost
    expected = {name: expected_total(value, drawn) for name, value in found.items()}
    expected["computed_tokens"] = expected_prefill(found["computed_tokens"], sum(one.prefill for one in stages), drawn)
    expected["mixed_tasks"] = expected_tasks(found["mixed_tasks"] > 0, drawn)
    return {name: expected[name] for name in FIGURES if name in expected}


def _episodes(config: PlanConfig) -> EpisodeConfig:
    """How the pilot's tasks are played.

    Raises:
        BadConfig: a parameter is none of episodes, or needs another round, which the pilot's store lacks.
    """
    given = {name: getattr(config, name) for name in ("temperature", "top_p") if getattr(config, name) is not None}
    found = read_json_params(EpisodeConfig(group=config.group, **given), config.params, of=EPISODES)
    if found.baseline:
        raise BadConfig("episodes with a baseline cannot be planned", remedy="plan with most_turns in its place")
    return found


@dataclass(frozen=True, slots=True)
class _StageFigures:
    """by_task: `[n]` float64 of each figure, in the order of the pilot's tasks; NaN: not told.
    prefill: prompt tokens to be computed for all of them, with one cache.
    """

    by_task: dict[str, np.ndarray]
    prefill: int


def _stage_figures(pilot: Work, stage: str, tasks: pl.DataFrame, pace: Pace) -> _StageFigures:
    """What a stage of the pilot took."""
    of = {"suite": pilot.suite.name, "round": pilot.round}
    spent = spent_by_task(pilot.store, *of.values(), stages=[stage])
    rows = tasks.select("task").join(spent, on="task", how="left", maintain_order="left")
    counts = [name for name in spent.columns if name not in ("task", "computed_tokens", "request_seconds")]
    found = {name: rows[name].fill_null(0).to_numpy().astype(np.float64) for name in counts}
    asked = pilot.store.scan("requests", **of, stage=stage).filter(~pl.col("reused").fill_null(value=False)).collect()
    answered = _answered(pilot, asked)
    by_task = [answered.get(task, []) for task in tasks["task"]]
    found["computed_tokens"] = np.array([least_prefill(some) for some in by_task], np.float64)
    found["unique_tokens"] = np.array([unique_tokens(some).decoded for some in by_task], np.float64)
    asker = EPISODES if stage == ROLLOUTS and pilot.suite.environment is not None else stage
    rate = pace.rate(asker, shortest=asked["seconds"].min())
    decoded = found["decoded_tokens"]
    found["seconds"] = decoded / rate if rate else np.where(decoded > 0, np.nan, 0.0)
    return _StageFigures(found, least_prefill([one for some in answered.values() for one in some]))


def _answered(pilot: Work, asked: pl.DataFrame) -> dict[str, list[Answered]]:
    """Prompts and answers of some requests by task; a prompt comes after those that it goes on from."""
    found: dict[str, list[Answered]] = {}
    with pilot.store.ledger() as ledger:
        entries = ledger.get(asked["request"].to_list())
    for task, request in asked.select("task", "request").iter_rows():
        entry = entries[request]
        found.setdefault(task, []).append(Answered(entry.prompt, entry.completion.token_ids))
    return {task: sorted(some, key=lambda one: len(one.prompt)) for task, some in sorted(found.items())}


@contextmanager
def _beside(work: Work, tasks: pl.DataFrame) -> Iterator[Work]:
    """The same surroundings with a store for a while that has some tasks and the ledger of the real one."""
    with work.store.ledger():
        ledger = work.store.ledger_path.absolute()
    with TemporaryDirectory(prefix="branchpoint-plan-") as folder:
        (Path(folder) / ledger.name).symlink_to(ledger)
        beside = replace(work, settings=replace(work.settings, store=Path(folder)))
        for shard, rows in shards_of(tasks, size=work.suite.shard_tasks).items():
            beside.store.write("tasks", rows, Place(work.suite.name, EVERY_ROUND, "tasks", shard), inputs={})
        yield beside
