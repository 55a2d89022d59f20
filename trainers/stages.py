"""Stages that train: rows of a round in, a policy's folder out. An asset and a command call the same function.

A policy whose lineage names the very same parent, rows, recipe and `VERSION` is left alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from pipeline.errors import BadModel
from pipeline.generation.policies import find_policy
from pipeline.report import Progress, Report
from pipeline.stages.earlier import refuse_replaced
from pipeline.stages.work import Work, inputs

if TYPE_CHECKING:
    from trainers.runs import TrainingReport

VERSION = "1"
"""Of the training code. Raise it when a trainer comes to make another policy of the same parent, rows and recipe."""


@dataclass(frozen=True, slots=True)
class DpoRecipe:
    """DPO on the round's pairs. Defaults suit a policy of about a million parameters on two cores."""

    beta: float = 0.1
    learning_rate: float = 3e-5
    steps: int = 100
    batch_size: int = 16
    warmup_ratio: float = 0.1
    seed: int = 0
    sft_weight: float = 1.0


@dataclass(frozen=True, slots=True)
class IntRecipe:
    """Supervised training on the round's InT rows."""

    learning_rate: float = 1e-4
    steps: int = 100
    batch_size: int = 16
    warmup_ratio: float = 0.1
    seed: int = 0


def policy_name(work: Work, method: str) -> str:
    """Name of the policy a method makes of a round."""
    return f"{work.suite.name}-{work.round}-{method}"


def train_dpo_policy(work: Work, recipe: DpoRecipe = DpoRecipe()) -> Report:
    """DPO from the round's policy.

    Raises:
        BadConfig, BadInput, BadModel: the recipe, the rows or the parent cannot be used.
        StoreFull: the policy cannot be written; one already there stays.
    """

    def train(rows: pl.DataFrame, **run: Any) -> TrainingReport:
        from trainers.dpo import DpoConfig, train_dpo

        config = DpoConfig(precompute_reference=True, **asdict(recipe))
        return train_dpo(rows, policy=work.policy.path, config=config, **run)

    return _train(work, "dpo", "pairs", recipe, train)


def train_int_policy(work: Work, recipe: IntRecipe = IntRecipe()) -> Report:
    """Supervised training on interventions (InT) from the round's policy.

    Raises:
        BadConfig, BadInput, BadModel: the recipe, the rows or the parent cannot be used.
        StoreFull: the policy cannot be written; one already there stays.
    """

    def train(rows: pl.DataFrame, **run: Any) -> TrainingReport:
        from trainers.sft import SftConfig, train_sft

        return train_sft(rows, policy=work.policy.path, config=SftConfig(**asdict(recipe)), method="int", **run)

    return _train(work, "int", "patches", recipe, train)


def _train(
    work: Work, method: str, table: str, recipe: DpoRecipe | IntRecipe, train: Callable[..., TrainingReport]
) -> Report:
    name, stage = policy_name(work, method), f"policies/{method}"
    refuse_replaced(work, table)
    places = work.places(table)
    made_from = {
        **inputs(VERSION, config=recipe, parent=work.policy.fingerprint),
        "rows": [work.store.digest(table, place) for place in places],
    }
    report = Report(stage, work.suite.name, work.round, shards=1)
    numbers = _numbers_of(work.settings.policies / name, made_from)
    if numbers is None:
        done = train(
            work.store.read(table, places),
            out=work.settings.policies / name,
            inputs=made_from,
            on_progress=lambda p: work.on_progress(Progress(stage, "steps", p.step, p.steps, 0, 0, p.seconds)),
        )
        report.fresh, report.seconds, numbers = 1, done.seconds, done.numbers
    report.numbers = numbers
    report.rows = {table: sum(work.store.rows(table, place) for place in places)}
    report.digest = find_policy(name, policies=work.settings.policies).fingerprint
    return report


def _numbers_of(folder: Path, made_from: dict[str, Any]) -> dict[str, float | int] | None:
    """The numbers of the run that made this policy; None where there is no such policy, whole and of these inputs."""
    try:
        find_policy(str(folder.absolute()), policies=folder.parent)
        lineage = json.loads((folder / "lineage.json").read_text())
        return lineage["numbers"] if lineage["inputs"] == made_from else None
    except (BadModel, OSError, ValueError, KeyError, TypeError):
        return None
