"""Stages that train: rows of a round in, a policy's folder out. An asset and a command call the same function.

A policy whose lineage names the very same parent, rows and recipe is left alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from pipeline.report import Progress, Report
from pipeline.stages.work import Work


@dataclass(frozen=True, slots=True)
class DpoRecipe:
    """DPO on the round's pairs. Defaults suit a policy of about a million parameters on two cores."""

    beta: float = 0.1
    learning_rate: float = 1e-4
    steps: int = 200
    batch_size: int = 16
    warmup_ratio: float = 0.1
    seed: int = 0
    sft_weight: float = 0.0


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
    """DPO from the round's policy."""

    def train(rows: pl.DataFrame, out: Path, on_progress: Callable) -> object:
        from trainers.dpo import DpoConfig, train_dpo

        config = DpoConfig(precompute_reference=True, **_fields(recipe))
        return train_dpo(rows, policy=work.policy.path, out=out, config=config, on_progress=on_progress)

    return _train(work, "dpo", "pairs", recipe, train)


def train_int_policy(work: Work, recipe: IntRecipe = IntRecipe()) -> Report:
    """Supervised training on interventions (InT) from the round's policy."""

    def train(rows: pl.DataFrame, out: Path, on_progress: Callable) -> object:
        from trainers.sft import SftConfig, train_sft

        return train_sft(
            rows, policy=work.policy.path, out=out, config=SftConfig(**_fields(recipe)), on_progress=on_progress
        )

    return _train(work, "int", "patches", recipe, train)


def _fields(recipe: object) -> dict:
    return {name: getattr(recipe, name) for name in recipe.__slots__}


def _train(work: Work, method: str, table: str, recipe: object, train: Callable) -> Report:
    name = policy_name(work, method)
    out = work.settings.policies / name
    places = work.store.places(table, suite=work.suite.name, round=work.round)
    made_from = {
        "parent": work.policy.fingerprint,
        "recipe": _fields(recipe),
        "rows": [work.store.digest(table, place) for place in places],
    }
    report = Report(f"policies/{method}", work.suite.name, work.round, shards=1)
    note = out / "made_from.json"
    if note.exists() and json.loads(note.read_text()) == made_from and (out / "model.safetensors").exists():
        report.numbers = json.loads((out / "training.json").read_text())
    else:
        rows = work.store.read(table, places)
        done = train(
            rows,
            out,
            lambda p: work.on_progress(Progress(f"policies/{method}", "steps", p.step, p.steps, 0, 0, p.seconds)),
        )
        report.fresh, report.seconds = 1, done.seconds
        report.numbers = {
            "rows": done.rows,
            "steps": done.steps,
            "first_loss": done.first_loss,
            "last_loss": sum(c["loss"] for c in done.curves[-20:]) / len(done.curves[-20:]),
        }
        (out / "training.json").write_text(json.dumps(report.numbers))
        note.write_text(json.dumps(made_from, sort_keys=True))
    report.rows = {table: sum(work.store.rows(table, place) for place in places)}
    from pipeline.generation.policies import find_policy

    report.digest = find_policy(name, policies=work.settings.policies).fingerprint
    return report
