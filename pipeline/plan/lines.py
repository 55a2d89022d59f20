"""A plan and what came of it as lines, one a figure, for people and for programs."""

from __future__ import annotations

import json
from typing import NamedTuple

import polars as pl

from pipeline.generation.budget.spending import Prices
from pipeline.plan import FIGURES
from pipeline.plan.measure import clock_seconds, made_by_task, spent_by_task, training_rows
from pipeline.stages.plan import STAGE, PlanConfig
from pipeline.stages.step_labels import StepLabelConfig
from pipeline.store.store import Store

_LABELLED = {"step_labels": StepLabelConfig().labeller, "pairs": None}
"""Tables whose rows are figures, and the stage that writes them; None: whichever does."""
_PER_ROW = ("prompt_tokens", "decoded_tokens", "request_seconds", "seconds", "cost")


class Line(NamedTuple):
    """A figure. plan, low, high: expected, and its 95 % interval. actual: of the round. None: not known."""

    figure: str
    plan: float | None
    low: float | None
    high: float | None
    actual: float | None


class Plan(NamedTuple):
    """A stored plan. tasks: of the suite; pilot: of those, tried; figures: `plan, low, high` by name."""

    config: PlanConfig
    tasks: int
    pilot: int
    figures: dict[str, tuple[float | None, float | None, float | None]]


def read_plan(store: Store, *, suite: str, round: str) -> Plan | None:
    """The round's plan; None where there is none."""
    places = store.places("evals", suite=suite, round=round, stage=STAGE)
    if not places:
        return None
    rows = store.read("evals", places)
    said = json.loads(store.entry("evals", places[0]).inputs["config"])
    config = PlanConfig(**{name: tuple(value) if isinstance(value, list) else value for name, value in said.items()})
    found = {metric: numbers for metric, *numbers in rows.select("metric", "value", "low", "high").iter_rows()}
    tasks = int(found.pop("tasks")[0])
    return Plan(config, tasks, rows["count"][0], {name: tuple(numbers) for name, numbers in found.items()})


def cost_lines(store: Store, *, suite: str, round: str, plan: Plan | None) -> list[Line]:
    """Every figure of the stages that were planned, of all stages where there is no plan; and of all, what a row of
    training data took.
    """
    asked = store.places("requests", suite=suite, round=round)
    stages = plan.config.stages if plan else tuple(dict.fromkeys(place.stage for place in asked))
    config = plan.config if plan else PlanConfig()
    actual = _actual(store, suite, round, stages, config) if any(place.stage in stages for place in asked) else {}
    lines = [Line(name, *_planned(plan, name), actual.get(name)) for name in FIGURES]
    lines.append(_share("reused_share", "reused_requests", "requests", plan, actual))
    lines.append(_share("computed_share", "computed_tokens", "prompt_tokens", plan, actual))
    every = _spent(store, suite, round, None, config.prices) if asked else {}
    for table, rows in training_rows(store, suite, round).items():
        if table != "pairs":
            lines.append(Line(table, None, None, None, rows))
        for name in _PER_ROW:
            planned = _ratio(_planned(plan, name)[0], _planned(plan, table)[0])
            lines.append(Line(f"{name}_per_row_of_{table}", planned, None, None, _ratio(every.get(name), rows)))
    return [line for line in lines if line[1:] != (None, None, None, None)]


def _planned(plan: Plan | None, name: str) -> tuple[float | None, float | None, float | None]:
    return plan.figures.get(name, (None, None, None)) if plan else (None, None, None)


def _share(name: str, part: str, whole: str, plan: Plan | None, actual: dict[str, float | None]) -> Line:
    planned = _ratio(_planned(plan, part)[0], _planned(plan, whole)[0])
    return Line(name, planned, None, None, _ratio(actual.get(part), actual.get(whole)))


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _spent(
    store: Store, suite: str, round: str, stages: tuple[str, ...] | None, prices: Prices
) -> dict[str, float | None]:
    spent = spent_by_task(store, suite, round, stages=stages).drop("task")
    found = {name: None if spent[name].null_count() else spent[name].sum() for name in spent.columns}
    found["seconds"] = seconds = clock_seconds(store, suite, round, stages=stages)
    cost = prices.cost(prompt=found["prompt_tokens"], decoded=found["decoded_tokens"], seconds=seconds)
    return {**found, "cost": cost}


def _actual(
    store: Store, suite: str, round: str, stages: tuple[str, ...], config: PlanConfig
) -> dict[str, float | None]:
    """What the stages took and made; without what comes of a stage that has not run."""
    found = _spent(store, suite, round, stages, config.prices)
    made = made_by_task(
        store,
        suite,
        round,
        stages=stages,
        labeller=_LABELLED["step_labels"],
        continuations=config.continuations,
    ).select(pl.exclude("task").sum())
    lacking = {
        table for table, stage in _LABELLED.items() if not store.places(table, suite=suite, round=round, stage=stage)
    }
    return found | {name: made[name].item() for name in made.columns if name not in lacking}
