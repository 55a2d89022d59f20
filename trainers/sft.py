"""Heavy: torch, trl. Fine-tuning on rows of `patches` (InT), token for token.

Through trl.SFTTrainer: a data set with `input_ids` and `labels` passes its preparation untouched (no encoding, no end
token, and no truncation with `max_length=None`), and its collator pads on the right with label -100. So transformers'
Trainer with a collator of ours would add nothing. Preparation is switched off all the same, to say so.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from trl import SFTConfig as TrlSftConfig
from trl import SFTTrainer

from pipeline.generation.policies import Policy
from trainers import runs, saving
from trainers.data import PATCH_COLUMNS, PATCH_LENGTH, check_fit, check_rows, patch_dataset, token_digest
from trainers.runs import OnTrainingProgress, TrainingReport


@dataclass(frozen=True, slots=True)
class SftConfig:
    """The recipe. The defaults suit a model of a million parameters; for billions take a rate near 1e-5.

    learning_rate: at its peak, AdamW.
    steps:         optimiser steps; the rows are gone through as often as it takes. InT goes through them 4 times.
    batch_size:    rows a step and device.
    warmup_ratio:  share of the steps over which the rate rises.
    seed:          order of the rows.
    """

    learning_rate: float = 1e-4
    steps: int = 200
    batch_size: int = 16
    warmup_ratio: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        runs.check_recipe(self)


class TokenSftTrainer(SFTTrainer):
    """TRL's SFTTrainer; nothing of the batch or the loss is changed."""

    def _send_telemetry(self) -> None:
        """Training reaches no network."""


def sft_trainer(rows: pl.DataFrame, *, policy: Policy, config: SftConfig, scratch: str) -> TokenSftTrainer:
    """The trainer, ready to run.

    Args:
        rows: `input_ids` and `labels` of equal length, -100 where not trained.
        policy: the policy to train.
        config: the recipe.
        scratch: a temporary folder.

    Raises:
        BadInput: a row does not fit the policy or trains no token.
        BadModel: the policy cannot be loaded.
    """
    model = runs.load_model(policy)
    check_fit(rows, PATCH_COLUMNS, length=PATCH_LENGTH, vocabulary=model.config.vocab_size, positions=policy.max_length)
    return TokenSftTrainer(
        model=model,
        args=TrlSftConfig(
            **runs.shared_arguments(config, scratch=scratch),
            max_length=None,
            packing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        train_dataset=patch_dataset(rows),
        processing_class=runs.load_tokenizer(policy),
    )


def train_sft(
    rows: pl.DataFrame,
    *,
    policy: Path,
    out: Path,
    config: SftConfig,
    method: str = "sft",
    inputs: Mapping[str, Any] | None = None,
    on_progress: OnTrainingProgress | None = None,
) -> TrainingReport:
    """Fine-tune a policy on the tokens that have a label; the result is a new policy's folder.

    The loss of a batch is the mean over its trained tokens of -log pi(token | all tokens before it). No end token is
    appended: a patch stops in the middle of a solution on purpose.

    Args:
        rows: rows of the `patches` table, or any with `input_ids` and `labels`.
        policy: folder of the policy.
        out: folder of the new policy; a policy already there is replaced.
        config: the recipe.
        method: what the rows are, for its lineage.json and its card, such as `int`.
        inputs: what the caller made the policy from, for its lineage.json.
        on_progress: called after each step.

    Returns:
        The numbers of the run; losses in nats a token.

    Raises:
        BadInput: no rows, or a row that does not fit the policy or trains no token.
        BadModel: `policy` is no model.
        BadConfig: `out` is something else than a policy, or the loss became no number.
        StoreFull: the disk refused; what was at `out` stays.

    Source: InT (Yang et al. 2026), the fine-tuning stage. The paper sums over tokens; the mean weighs a batch alike
        however many tokens it has, and differs by the learning rate.
    """
    saving.check_out(out)
    check_rows(rows, PATCH_COLUMNS)
    parent = runs.read_policy(policy)
    with runs.quiet(), tempfile.TemporaryDirectory() as scratch:
        trainer = sft_trainer(rows, policy=parent, config=config, scratch=scratch)
        report = runs.run(trainer, out=out, on_progress=on_progress)
    digest = token_digest(rows, PATCH_COLUMNS)
    source = saving.trace_lineage(parent, config, method=method, digest=digest, report=report, inputs=inputs)
    if trainer.is_world_process_zero():
        saving.save_policy(trainer.model, parent.path, out=out, lineage=source, report=report)
    return report
