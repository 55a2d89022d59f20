"""Stages that train: rows of a round in, a policy's folder out. An asset and a command call the same function.

A policy whose lineage names the very same parent, rows, recipe and `VERSION` is left alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from pipeline.builders.packing import Rows
from pipeline.errors import BadConfig, BadModel
from pipeline.generation.policies import find_policy
from pipeline.report import Progress, Report
from pipeline.stages.earlier import Earlier
from pipeline.stages.token_rewards import TokenRewardConfig, write_token_rewards
from pipeline.stages.work import Work, inputs
from trainers.recipes import AMPLIFIED, DpoRecipe, IntRecipe, RunRecipe, SftRecipe, TRegRecipe
from trainers.weighed_rows import amplified, with_answers

if TYPE_CHECKING:
    from trainers.runs import TrainingReport

VERSION = "2"
"""Of the training code. Raise it when a trainer comes to make another policy of the same parent, rows and recipe."""


TABLES = {DpoRecipe: "pairs", TRegRecipe: "token_rewards", IntRecipe: "patches", SftRecipe: "sft"}


def trained_on(recipe: RunRecipe) -> tuple[str, str | None]:
    """Table and stage of the rows that a recipe is for; None: of every stage."""
    if isinstance(recipe, SftRecipe):
        return "rl_samples" if recipe.rows == AMPLIFIED else TABLES[SftRecipe], recipe.rows
    return TABLES[type(recipe)], None


def policy_name(work: Work, method: str) -> str:
    """Name of the policy a method makes of a round."""
    return f"{work.suite.name}-{work.round}-{method}"


def train_dpo_policy(work: Work, recipe: DpoRecipe = DpoRecipe()) -> Report:
    """Preference training on the round's pairs, from the round's policy.

    Raises:
        BadConfig, BadInput, BadModel: the recipe, the rows or the parent cannot be used.
        StoreFull: the policy cannot be written; one already there stays.
    """

    def train(rows: pl.DataFrame, **run: Any) -> TrainingReport:
        from trainers.data import PAIR_LENGTH, short_rows

        short_rows(rows, length=PAIR_LENGTH, most=recipe.max_length)  # refused before torch and TRL are loaded
        from trainers.dpo import train_dpo

        return train_dpo(rows, policy=work.policy.path, recipe=recipe, **run)

    return _train(work, "dpo", recipe, train)


def build_token_rewards(work: Work, config: TokenRewardConfig = TokenRewardConfig()) -> Report:
    """A reward for every token of the round's pairs, scored by the round's policy.

    Raises:
        As `pipeline.stages.token_rewards.write_token_rewards`.
    """

    def score(rows: Rows, starts: np.ndarray) -> np.ndarray:
        from trainers.scoring import scorer_of

        return scorer_of(work.policy)(rows, starts)

    return write_token_rewards(work, config, score=score)


def train_treg_policy(work: Work, recipe: TRegRecipe = TRegRecipe()) -> Report:
    """Preference training with token rewards (T-REG), from the round's policy.

    Raises:
        BadConfig, BadInput, BadModel: the recipe, the rows or the parent cannot be used.
        StoreFull: the policy cannot be written; one already there stays.
    """

    def train(rows: pl.DataFrame, **run: Any) -> TrainingReport:
        from trainers.treg import train_treg

        return train_treg(rows, policy=work.policy.path, recipe=recipe, **run)

    return _train(work, "treg", recipe, train)


def train_int_policy(work: Work, recipe: IntRecipe = IntRecipe()) -> Report:
    """Supervised training on interventions (InT) from the round's policy.

    Raises:
        BadConfig, BadInput, BadModel: the recipe, the rows or the parent cannot be used.
        StoreFull: the policy cannot be written; one already there stays.
    """
    return _train_likelihood(work, "int", recipe)


def train_sft_policy(work: Work, recipe: SftRecipe = SftRecipe()) -> Report:
    """Supervised training on the round's answers to imitate, each token with its weight, from the round's policy.

    Raises:
        BadConfig, BadInput, BadModel: the recipe, the rows or the parent cannot be used.
        StoreFull: the policy cannot be written; one already there stays.
    """
    return _train_likelihood(work, "sft", recipe)


def _train_likelihood(work: Work, method: str, recipe: IntRecipe | SftRecipe) -> Report:
    def train(rows: pl.DataFrame, **run: Any) -> TrainingReport:
        from trainers.sft import train_sft

        return train_sft(rows, policy=work.policy.path, recipe=recipe, method=method, **run)

    return _train(work, method, recipe, train)


def _train(work: Work, method: str, recipe: RunRecipe, train: Callable[..., TrainingReport]) -> Report:
    recipe.check()
    table, of = trained_on(recipe)
    name, stage = policy_name(work, recipe.name or method), f"policies/{method}"
    places = work.places(table, stage=of)
    for place in places:
        Earlier(work, place.shard).refuse_replaced(table, place.stage)
    made_from = {
        **inputs(VERSION, config=recipe, parent=work.policy.fingerprint),
        "rows": [work.store.digest(table, place) for place in places],
    }
    report = Report(stage, work.suite.name, work.round, shards=1)
    numbers = stored_numbers(work.settings.policies / name, made_from)
    if numbers is None:
        done = train(
            _completed(work, table, _chosen(work, table, work.store.read(table, places), recipe)),
            out=work.settings.policies / name,
            inputs=made_from,
            on_progress=lambda p: work.on_progress(Progress(stage, "steps", p.step, p.steps, 0, 0, p.seconds)),
        )
        report.fresh, report.seconds, numbers = 1, done.seconds, done.numbers
    report.numbers = numbers
    report.rows = {table: sum(work.store.rows(table, place) for place in places)}
    report.digest = find_policy(name, policies=work.settings.policies).fingerprint
    return report


def _chosen(work: Work, table: str, rows: pl.DataFrame, recipe: RunRecipe) -> pl.DataFrame:
    """The rows that a recipe asks for.

    Raises:
        BadConfig: there are none; names what there is, or the command that makes them.
    """
    if rows.is_empty():
        made_by = trained_on(recipe)[1] or table
        command = "branchpoint-train" if made_by == "token_rewards" else "branchpoint"
        raise BadConfig(
            f"round {work.round} of {work.suite.name} has no rows of {made_by}",
            remedy=f"run `{command} {made_by.replace('_', '-')} --suite {work.suite.name} --round {work.round}` first, "
            "on more tasks or attempts where it makes none",
        )
    wanted, column, there = "", "", rows
    if isinstance(recipe, DpoRecipe) and recipe.source:
        wanted, column = recipe.source, "source"
    elif isinstance(recipe, SftRecipe) and recipe.agent:
        wanted, column = recipe.agent, "agent"
        agents = work.store.read("nodes", work.places("nodes"), columns=("task", "tree", "node", "agent"))
        there = rows.join(agents.drop("task"), on=("tree", "node"), how="left", maintain_order="left")
    if not wanted:
        return rows
    found = there.filter(pl.col(column) == wanted).select(rows.columns)
    if found.is_empty():
        known = ", ".join(sorted(there[column].drop_nulls().unique())) or "none"
        raise BadConfig(f"no row is of {column} {wanted!r}", remedy=f"choose one of those there are: {known}")
    return found


def _completed(work: Work, table: str, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows with their text where the table has none, and R3L's with weights."""
    if table not in ("token_rewards", "rl_samples"):
        return rows
    told = with_answers(work, rows)
    return amplified(told) if table == "rl_samples" else told


def stored_numbers(folder: Path, made_from: dict[str, Any]) -> dict[str, float | int] | None:
    """The numbers of the run that made this policy; None where there is no such policy, whole and of these inputs."""
    try:
        find_policy(str(folder.absolute()), policies=folder.parent)
        lineage = json.loads((folder / "lineage.json").read_text())
        return lineage["numbers"] if lineage["inputs"] == made_from else None
    except (BadModel, OSError, ValueError, KeyError, TypeError):
        return None
