"""Heavy: torch. T-REG on rows of `token_rewards`: a preference loss and a reward a token, in packs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.builders.packing import Rows
from pipeline.errors import BadInput
from pipeline.generation.policies import Policy
from trainers import runs
from trainers.data import REWARD_COLUMNS, check_fit, check_rows, check_spelling, check_weights, group_numbers
from trainers.fit import Ready, fit, packed_trainer
from trainers.packed.losses import t_reg_loss
from trainers.packed.rows import Packed, paired_rows, preference_packs
from trainers.recipes import TRegRecipe
from trainers.runs import OnTrainingProgress, TrainingReport

SIDES = ("chosen", "rejected")
COLUMNS = ("prompt_ids", *(f"{side}_{name}" for side in SIDES for name in ("ids", "rewards")))
LENGTH = pl.col("prompt_ids").list.len() + pl.max_horizontal(pl.col(f"{side}_ids").list.len() for side in SIDES)


def joined_sides(rows: pl.DataFrame) -> pl.DataFrame:
    """A row a pair, with ids and rewards of both answers.

    Raises:
        BadInput: a pair lacks one of its answers.
    """
    shared = [name for name in ("row", "task", "prompt_ids") if name in rows.columns]
    chosen, rejected = (
        rows.filter(pl.col("side") == side).rename({"answer_ids": f"{side}_ids", "rewards": f"{side}_rewards"})
        for side in SIDES
    )
    pairs = chosen.select(*shared, "chosen_ids", "chosen_rewards").join(
        rejected.select("row", "rejected_ids", "rejected_rewards"), on="row", how="inner", maintain_order="left"
    )
    if 2 * len(pairs) != len(rows):
        alone = rows.filter(pl.len().over("row") != 2)
        raise BadInput(
            f"row {alone['row'][0]}: one of its two answers has no rewards", remedy="build token_rewards again"
        )
    return pairs


def treg_packs(pairs: pl.DataFrame, recipe: TRegRecipe) -> Packed:
    """Packs of pairs with a reward for every answer token."""
    rows, starts = paired_rows(pairs["prompt_ids"], pairs["chosen_ids"], pairs["rejected_ids"])
    return preference_packs(
        rows,
        starts,
        groups=group_numbers(pairs, seed=recipe.seed),
        max_tokens=recipe.max_tokens,
        max_pairs=recipe.batch_size,
        rewards=spread_rewards(rows, starts, pairs),
    )


def spread_rewards(rows: Rows, starts: np.ndarray, pairs: pl.DataFrame) -> np.ndarray:
    """`[T]` float64: the reward of each answer token; 0 on prompts."""
    sides = zip(pairs["chosen_rewards"].to_list(), pairs["rejected_rewards"].to_list(), strict=True)
    answers = np.concatenate([np.asarray(side, np.float64) for pair in sides for side in pair])
    found = np.zeros(len(rows.values))
    place = np.arange(len(found)) - np.repeat(rows.offsets[:-1], np.diff(rows.offsets))
    found[place >= np.repeat(starts, np.diff(rows.offsets))] = answers
    return found


def train_treg(
    rows: pl.DataFrame,
    *,
    policy: Path,
    out: Path,
    recipe: TRegRecipe,
    inputs: Mapping[str, Any] | None = None,
    on_progress: OnTrainingProgress | None = None,
) -> TrainingReport:
    """Train a policy to prefer the chosen answers, and each of their tokens by its reward.

    Args:
        rows: rows of the `token_rewards` table, two a pair; where they have an `answer`, of the policy's spelling.
        policy: folder of the policy, also the reference.
        out: folder of the new policy; a policy already there is replaced.
        recipe: of the run.
        inputs: what the caller made the policy from, for its lineage.json.
        on_progress: called after each step.

    Returns:
        The numbers of the run; `curves` has `preference_loss` and TRL's `rewards/...` (nats) too.

    Raises:
        BadInput: no rows, one that lacks its other answer, does not fit the policy or its tokenizer, or has a reward
            that is no number.
        BadModel: `policy` is no model.
        BadConfig: `out` is something else than a policy, a setting cannot be, or the loss became no number.
        StoreFull: the disk refused; what was at `out` stays.

    Source: T-REG (Zhou et al., 2024), from its text; no code is to be had.
    """
    recipe.check()
    check_rows(rows, ("row", "side", *REWARD_COLUMNS))
    check_weights(rows, "rewards", of="answer_ids")
    pairs = joined_sides(rows)
    loss = t_reg_loss(
        beta=recipe.beta,
        alpha=recipe.alpha,
        base_loss=recipe.base_loss,
        gamma=recipe.gamma if recipe.base_loss == "simpo" else 0.0,
        weighted=recipe.weighted,
        sft_weight=recipe.sft_weight,
    )

    def make(train: pl.DataFrame, held: pl.DataFrame | None, parent: Policy, folder: Path) -> Ready:
        vocabulary, positions = runs.limits(parent)
        ids = ("prompt_ids", "chosen_ids", "rejected_ids")
        check_fit(pairs, ids, length=LENGTH, vocabulary=vocabulary, positions=positions)
        check_spelling(rows, ("prompt_ids", "answer_ids"), text="answer", decode=runs.decoder(parent))
        packs = [None if part is None else treg_packs(part, recipe) for part in (train, held)]
        referenced = recipe.base_loss == "dpo"
        return packed_trainer(*packs, policy=parent, recipe=recipe, folder=folder, loss=loss, referenced=referenced)

    return fit(
        pairs,
        make,
        policy=policy,
        out=out,
        recipe=recipe,
        method="treg",
        columns=COLUMNS,
        inputs=inputs,
        on_progress=on_progress,
    )
