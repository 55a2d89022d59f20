"""Heavy: torch, trl. Likelihood of rows of `patches` (InT) and `sft`, token for token: in packs, or through TRL.

TRL takes a data set with `input_ids` and `labels` as it is (no encoding, no end token, and no truncation with
`max_length=None`), and its collator pads on the right with label -100. Preparation is switched off all the same, to
say so. It knows no weights but 0 and 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from trl import SFTConfig, SFTTrainer

from pipeline.builders.packing import as_rows
from pipeline.errors import BadConfig
from pipeline.generation.policies import Policy
from trainers import runs
from trainers.data import (
    IGNORED,
    PATCH_COLUMNS,
    ROW_LENGTH,
    WEIGHTED_COLUMNS,
    check_fit,
    check_rows,
    check_spelling,
    check_trained,
    check_weights,
    group_numbers,
    label_weights,
    patch_dataset,
)
from trainers.fit import Ready, fit, packed_trainer
from trainers.packed.losses import likelihood_loss
from trainers.packed.rows import Packed, likelihood_packs
from trainers.recipes import RunRecipe
from trainers.runs import OnTrainingProgress, TrainingReport


class TokenSftTrainer(SFTTrainer):
    """TRL's SFTTrainer; nothing of the batch or the loss is changed."""

    def _send_telemetry(self) -> None:
        """Training reaches no network."""


def sft_trainer(rows: pl.DataFrame, *, policy: Policy, recipe: RunRecipe, folder: Path) -> TokenSftTrainer:
    """TRL's trainer, ready to run.

    Args:
        rows: `input_ids` and `labels` of equal length, -100 where not trained.
        policy: the policy to train.
        recipe: of the run.
        folder: for checkpoints.

    Raises:
        BadModel: the policy cannot be loaded.
    """
    return TokenSftTrainer(
        model=runs.adapted(runs.load_model(policy), recipe),
        args=SFTConfig(
            **runs.run_arguments(recipe, folder=folder, held_out=False),
            max_length=None,
            packing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        train_dataset=patch_dataset(rows),
        processing_class=runs.load_tokenizer(policy),
    )


def sft_packs(rows: pl.DataFrame, recipe: RunRecipe) -> Packed:
    """Packs of rows with `input_ids` and `weights`."""
    weights = np.asarray(rows["weights"].explode().to_numpy(), np.float64)
    return likelihood_packs(
        as_rows(rows["input_ids"]),
        weights,
        groups=group_numbers(rows, seed=recipe.seed),
        max_tokens=recipe.max_tokens,
        max_rows=recipe.batch_size,
    )


def train_sft(
    rows: pl.DataFrame,
    *,
    policy: Path,
    out: Path,
    recipe: RunRecipe,
    method: str = "sft",
    inputs: Mapping[str, Any] | None = None,
    on_progress: OnTrainingProgress | None = None,
) -> TrainingReport:
    """Fine-tune a policy on the tokens that have a label or a weight; the result is a new policy's folder.

    The loss of a step is the mean over its trained tokens of -log pi(token | all tokens before it), each with its
    weight. No end token is appended: a patch stops in the middle of a solution on purpose.

    Args:
        rows: rows of `patches`, or any with `input_ids` and `labels`; or rows of `sft`, with `weights` in their place.
        policy: folder of the policy.
        out: folder of the new policy; a policy already there is replaced.
        recipe: of the run.
        method: what the rows are, for its lineage.json and its card, such as `int`.
        inputs: what the caller made the policy from, for its lineage.json.
        on_progress: called after each step.

    Returns:
        The numbers of the run; losses in nats a token.

    Raises:
        BadInput: no rows, or a row that does not fit the policy or its tokenizer, has a weight that is no number or
            trains no token.
        BadModel: `policy` is no model.
        BadConfig: `out` is something else than a policy, a setting cannot be, or the loss became no number.
        StoreFull: the disk refused; what was at `out` stays.

    Source: InT (Yang et al. 2026), the fine-tuning stage. The paper sums over tokens; the mean weighs a batch alike
        however many tokens it has, and differs by the learning rate.
    """
    recipe.check()
    weighted = "weights" in rows.columns
    columns = WEIGHTED_COLUMNS if weighted else PATCH_COLUMNS
    check_rows(rows, columns)
    check_weights(rows, columns[1], of="input_ids")
    if weighted:
        check_trained(rows, "weights", idle=0.0, remedy="leave such rows out, or weigh the tokens to learn")
        if not recipe.packed:
            raise BadConfig("packed is false, and the rows have weights", remedy="train them packed")
    else:
        check_trained(
            rows, "labels", idle=IGNORED, remedy="labels must repeat the tokens to learn and be -100 elsewhere"
        )

    def make(train: pl.DataFrame, held: pl.DataFrame | None, parent: Policy, folder: Path) -> Ready:
        vocabulary, positions = runs.limits(parent)
        check_fit(rows, ("input_ids",), length=ROW_LENGTH, vocabulary=vocabulary, positions=positions)
        text = "answer" if weighted else "text"
        check_spelling(rows, ("input_ids",), text=text, decode=runs.decoder(parent))
        if not recipe.packed:
            return Ready(sft_trainer(train, policy=parent, recipe=recipe, folder=folder))
        packs = [
            None if part is None else sft_packs(part if weighted else label_weights(part), recipe)
            for part in (train, held)
        ]
        return packed_trainer(*packs, policy=parent, recipe=recipe, folder=folder, loss=likelihood_loss())

    return fit(
        rows,
        make,
        policy=policy,
        out=out,
        recipe=recipe,
        method=method,
        columns=columns,
        inputs=inputs,
        on_progress=on_progress,
    )
