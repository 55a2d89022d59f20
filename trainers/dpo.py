"""Heavy: torch, trl. Preference training on rows of `pairs`, token for token: in packs, or through TRL.

TRL's DPOTrainer encodes text anew and appends the end token to it; here the stored ids go in as they are: an answer
cut off by length gets no end token, one that ended has it among its ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import polars as pl
from datasets import Dataset
from torch import Tensor
from trl import DPOConfig, DPOTrainer

from pipeline.builders.curriculum import SMOOTHING, pair_easiness
from pipeline.errors import BadInput
from pipeline.generation.policies import Policy
from trainers import runs
from trainers.data import (
    PAIR_COLUMNS,
    PAIR_LENGTH,
    check_fit,
    check_rows,
    check_spelling,
    group_numbers,
    pair_dataset,
    short_rows,
)
from trainers.fit import Ready, fit, packed_trainer
from trainers.packed.losses import dpo_loss
from trainers.packed.rows import Packed, paired_rows, preference_packs
from trainers.recipes import TDPO_LOSSES, DpoRecipe
from trainers.runs import OnTrainingProgress, TrainingReport


class TokenDpoTrainer(DPOTrainer):
    """TRL's DPOTrainer on token ids. Collator, loss, loop and metrics are TRL's."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        """The rows already are what the collator reads: `prompt_ids`, `chosen_ids`, `rejected_ids`."""
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        with redirect_stderr(StringIO()):  # its progress bar heeds no setting but the environment
            return super()._precompute_ref_logps(dataset, name, batch_size)

    def _send_telemetry(self) -> None:
        """Training reaches no network."""


def dpo_trainer(pairs: pl.DataFrame, *, policy: Policy, recipe: DpoRecipe, folder: Path) -> TokenDpoTrainer:
    """TRL's trainer, ready to run; the reference scores the pairs once, before training.

    Args:
        pairs: rows of the `pairs` table.
        policy: the policy to train.
        recipe: of the run.
        folder: for checkpoints.

    Raises:
        BadModel: the policy cannot be loaded.
    """
    return TokenDpoTrainer(
        model=runs.adapted(runs.load_model(policy), recipe),
        args=DPOConfig(
            **runs.run_arguments(recipe, folder=folder, held_out=False),
            beta=recipe.beta,
            loss_type=[recipe.loss_type, "sft"] if recipe.sft_weight else [recipe.loss_type],
            loss_weights=[1.0, recipe.sft_weight] if recipe.sft_weight else None,
            label_smoothing=recipe.label_smoothing,
            max_length=None,
            precompute_ref_log_probs=True,
        ),
        train_dataset=pair_dataset(pairs),
        processing_class=runs.load_tokenizer(policy),
    )


def dpo_packs(pairs: pl.DataFrame, recipe: DpoRecipe) -> Packed:
    """Packs of pairs; under a curriculum each with its easiness for a weight."""
    rows, starts = paired_rows(*(pairs[name] for name in PAIR_COLUMNS))
    weights = pair_easiness(pairs["margin"].to_numpy(), 0.0) + SMOOTHING if recipe.curriculum else None
    return preference_packs(
        rows,
        starts,
        groups=group_numbers(pairs, seed=recipe.seed),
        max_tokens=recipe.max_tokens,
        max_pairs=recipe.batch_size,
        weights=weights,
    )


def packed_dpo(
    pairs: pl.DataFrame, held: pl.DataFrame | None, *, policy: Policy, recipe: DpoRecipe, folder: Path
) -> Ready:
    """The trainer of packs, ready to run; the reference scores them once, before training.

    Raises:
        BadModel: the policy cannot be loaded, or takes no packs.
    """
    packed, tdpo = dpo_packs(pairs, recipe), recipe.loss_type in TDPO_LOSSES

    def mixed(weights: Tensor) -> Tensor:
        """Pairs' weights by now: at first their easiness, all 1 from the curriculum's last epoch on."""
        if not recipe.curriculum:
            return weights
        share = min(1.0, int(ready.trainer.state.epoch or 0) / recipe.curriculum)
        return weights * (1 - share) + share

    loss = dpo_loss(
        beta=recipe.beta,
        loss_type=recipe.loss_type,
        label_smoothing=recipe.label_smoothing,
        sft_weight=recipe.sft_weight,
        mixed=mixed,
    )
    ready = packed_trainer(
        packed,
        None if held is None else dpo_packs(held, replace(recipe, curriculum=0)),  # alike at every epoch
        policy=policy,
        recipe=recipe,
        folder=folder,
        loss=loss,
        referenced=True,
        whole_reference=tdpo,
    )
    return ready


def train_dpo(
    pairs: pl.DataFrame,
    *,
    policy: Path,
    out: Path,
    recipe: DpoRecipe,
    method: str = "dpo",
    inputs: Mapping[str, Any] | None = None,
    on_progress: OnTrainingProgress | None = None,
) -> TrainingReport:
    """Train a policy to prefer the chosen answers; the result is a new policy's folder.

    With d = (log pi(y_w|x) - log pi_ref(y_w|x)) - (log pi(y_l|x) - log pi_ref(y_l|x)), sums over answer tokens,
    the loss is the mean over pairs of -log sigmoid(beta d). At the first step policy and reference are equal and it
    is ln 2, plus the weighted likelihood where `sft_weight` is not 0. A pair of source `step` has the right steps in
    its prompt, which makes it a row of Step-DPO.

    Args:
        pairs: rows of the `pairs` table.
        policy: folder of the policy, also the reference.
        out: folder of the new policy; a policy already there is replaced.
        recipe: of the run.
        method: what the rows are, for its lineage.json and its card.
        inputs: what the caller made the policy from, for its lineage.json.
        on_progress: called after each step.

    Returns:
        The numbers of the run; `curves` has TRL's `rewards/accuracies`, `rewards/margins` (nats) and others.

    Raises:
        BadInput: no rows, or a row that does not fit the policy or its tokenizer.
        BadModel: `policy` is no model.
        BadConfig: `out` is something else than a policy, a setting cannot be, or the loss became no number.
        StoreFull: the disk refused; what was at `out` stays.

    Source: Rafailov et al. 2023 (arXiv 2305.18290), equation 7; robust Chowdhury et al. 2024; hinge SLiC; ipo Azar et
        al. 2023 (arXiv 2310.12036), equation 17, log-ratios averaged over tokens; TDPO (Zeng et al. 2024, arXiv
        2404.11999); the added likelihood as in RPO (Pang et al. 2024, arXiv 2404.19733), there normalised by answer,
        here by batch; Step-DPO (Lai et al. 2024, arXiv 2406.18629).
    """
    recipe.check()
    check_rows(pairs, PAIR_COLUMNS)
    kept = short_rows(pairs, length=PAIR_LENGTH, most=recipe.max_length)
    if recipe.curriculum and ("margin" not in kept.columns or not kept["margin"].is_finite().all()):
        raise BadInput("pairs lack a margin to weigh them by", remedy="give it in every row, or set curriculum to 0")

    def make(train: pl.DataFrame, held: pl.DataFrame | None, parent: Policy, folder: Path) -> Ready:
        vocabulary, positions = runs.limits(parent)
        check_fit(kept, PAIR_COLUMNS, length=PAIR_LENGTH, vocabulary=vocabulary, positions=positions)
        check_spelling(kept, ("prompt_ids", "chosen_ids"), text="chosen", decode=runs.decoder(parent))
        if not recipe.packed:
            return Ready(dpo_trainer(train, policy=parent, recipe=recipe, folder=folder))
        return packed_dpo(train, held, policy=parent, recipe=recipe, folder=folder)

    return fit(
        kept,
        make,
        policy=policy,
        out=out,
        recipe=recipe,
        method=method,
        columns=PAIR_COLUMNS,
        skipped=len(pairs) - len(kept),
        inputs=inputs,
        on_progress=on_progress,
    )
