"""A lesson taught: rows to a policy, in a run whose length is set by a number of trained tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import polars as pl

from pipeline.stages.work import Work, inputs
from pipeline.store.digest import content_digest
from trainers.recipes import DpoRecipe, RunRecipe, TRegRecipe
from trainers.stages import VERSION, stored_numbers

IGNORED = -100


class Taught(NamedTuple):
    """What a policy was taught.

    rows:   pairs or rows to choose from. steps: of the optimiser.
    passes: over the rows.
    trained_tokens: whose log-probability was in the loss, once for each time. positive_tokens: those to be imitated:
        chosen answers, labels, weights above 0.
    """

    rows: int
    steps: int
    passes: float
    trained_tokens: float
    positive_tokens: float


def teach(
    work: Work,
    name: str,
    rows: pl.DataFrame,
    recipe: RunRecipe,
    *,
    tokens: int,
    steps: int,
    passes: int,
    say: Callable[[int, int, float], None],
) -> Taught:
    """Train the policy of the work into another one; a policy that is already made from the same is left alone.

    Args:
        name: of the new policy.
        rows: of the table that the type of the recipe reads.
        recipe: of the run but for its length.
        tokens: to be trained in all; a step has its share of them, in as many rows as that takes.
        steps: of the optimiser.
        passes: over the rows at most; steps are left out for it.
        say: called after each step with steps done, all steps, and seconds.

    Raises:
        As the trainers do.
    """
    count, trained, positive = counted(rows, recipe)
    batch = min(count, max(1, round(tokens / steps / (trained / count))))
    recipe = replace(recipe, batch_size=batch, steps=min(steps, math.ceil(passes * count / batch)))
    out = work.settings.policies / name
    made_from = inputs(VERSION, config=recipe, parent=work.policy.fingerprint, rows=content_digest(rows.to_arrow()))
    numbers = stored_numbers(out, made_from)
    if numbers is None:
        done = _trainer(recipe)(
            rows,
            policy=work.policy.path,
            out=out,
            recipe=recipe,
            inputs=made_from,
            on_progress=lambda one: say(one.step, one.steps, one.seconds),
        )
        numbers = done.numbers
    seen = numbers["passes"]
    return Taught(count, numbers["steps"], seen, seen * trained, seen * positive)


def counted(rows: pl.DataFrame, recipe: RunRecipe) -> tuple[int, int, int]:
    """Pairs or rows there are, tokens of them that are trained, and of those the ones to be imitated."""
    if isinstance(recipe, DpoRecipe):
        chosen, rejected = (int(rows[f"{side}_ids"].list.len().sum()) for side in ("chosen", "rejected"))
        return len(rows), chosen + rejected, chosen
    if isinstance(recipe, TRegRecipe):
        lengths = rows["answer_ids"].list.len()
        return len(rows) // 2, int(lengths.sum()), int(lengths.filter(rows["side"] == "chosen").sum())
    if "weights" in rows.columns:
        weights = rows["weights"].explode()
        return len(rows), int((weights != 0).sum()), int((weights > 0).sum())
    labelled = int((rows["labels"].explode() != IGNORED).sum())
    return len(rows), labelled, labelled


def add_up(taught: Sequence[Taught]) -> Taught:
    """Of all lessons; passes are those of the lesson that was gone through most."""
    rows, steps, passes, trained, positive = zip(*taught, strict=True) if taught else [(0,)] * 5
    return Taught(sum(rows), sum(steps), max(passes), sum(trained), sum(positive))


def _trainer(recipe: RunRecipe) -> Callable:
    if isinstance(recipe, DpoRecipe):
        from trainers.dpo import train_dpo

        return train_dpo
    if isinstance(recipe, TRegRecipe):
        from trainers.treg import train_treg

        return train_treg
    from trainers.sft import train_sft

    return train_sft
