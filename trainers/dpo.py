"""Heavy: torch, trl. DPO on rows of `pairs`, token for token.

TRL's DPOTrainer encodes text anew and appends the end token to it; here the stored ids go in as they are: an answer
cut off by length gets no end token, one that ended has it among its ids. Padding is on the right and masked.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import polars as pl
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from pipeline.errors import BadConfig, BadInput
from pipeline.generation.policies import Policy
from trainers import runs, saving
from trainers.data import PAIR_COLUMNS, PAIR_LENGTH, check_fit, check_rows, pair_dataset, token_digest
from trainers.runs import OnTrainingProgress, TrainingReport

LOSS_TYPES = ("sigmoid", "hinge", "ipo", "sigmoid_norm")


@dataclass(frozen=True, slots=True)
class DpoConfig:
    """The recipe. The defaults suit a model of a million parameters; for billions take a rate near 1e-6.

    beta:          weight of the reference in the implicit reward beta * (log pi - log pi_ref), in nats.
    learning_rate: at its peak, AdamW.
    steps:         optimiser steps; the pairs are gone through as often as it takes.
    batch_size:    pairs a step and device.
    warmup_ratio:  share of the steps over which the rate rises.
    max_length:    pairs whose prompt and longer answer have more tokens are left out, never cut; None keeps all.
    seed:          order of the pairs.
    loss_type:     one of LOSS_TYPES.
    sft_weight:    weight of the chosen answers' negative log-likelihood (mean over the batch's chosen tokens), added.
    precompute_reference: score the pairs by the reference once, before training, and keep no second model.
    """

    beta: float = 0.1
    learning_rate: float = 1e-4
    steps: int = 300
    batch_size: int = 16
    warmup_ratio: float = 0.1
    max_length: int | None = None
    seed: int = 0
    loss_type: str = "sigmoid"
    sft_weight: float = 0.0
    precompute_reference: bool = False

    def __post_init__(self) -> None:
        runs.check_recipe(self)
        if self.loss_type not in LOSS_TYPES:
            raise BadConfig(f"loss_type {self.loss_type!r} does not exist", remedy=f"choose {', '.join(LOSS_TYPES)}")
        if not self.beta > 0:
            raise BadConfig(f"beta {self.beta} is not above 0", remedy="set beta above 0; 0.1 is usual")
        if not self.sft_weight >= 0:
            raise BadConfig(f"sft_weight {self.sft_weight} is below 0", remedy="set sft_weight to 0 or more")


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


def dpo_trainer(pairs: pl.DataFrame, *, policy: Policy, config: DpoConfig, scratch: str) -> TokenDpoTrainer:
    """The trainer, ready to run; policy and reference start as the same weights.

    Args:
        pairs: rows of the `pairs` table.
        policy: the policy to train.
        config: the recipe.
        scratch: a temporary folder.

    Raises:
        BadInput: a row does not fit the policy.
        BadModel: the policy cannot be loaded.
    """
    model = runs.load_model(policy)
    check_fit(pairs, PAIR_COLUMNS, length=PAIR_LENGTH, vocabulary=model.config.vocab_size, positions=policy.max_length)
    return TokenDpoTrainer(
        model=model,
        ref_model=None if config.precompute_reference else runs.load_model(policy),
        args=DPOConfig(
            **runs.shared_arguments(config, scratch=scratch),
            beta=config.beta,
            loss_type=[config.loss_type, "sft"] if config.sft_weight else [config.loss_type],
            loss_weights=[1.0, config.sft_weight] if config.sft_weight else None,
            max_length=None,
            precompute_ref_log_probs=config.precompute_reference,
        ),
        train_dataset=pair_dataset(pairs),
        processing_class=runs.load_tokenizer(policy),
    )


def train_dpo(
    pairs: pl.DataFrame,
    *,
    policy: Path,
    out: Path,
    config: DpoConfig,
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
        config: the recipe.
        inputs: what the caller made the policy from, for its lineage.json.
        on_progress: called after each step.

    Returns:
        The numbers of the run; `curves` has TRL's `rewards/accuracies`, `rewards/margins` (nats) and others.

    Raises:
        BadInput: no rows, or a row that does not fit the policy.
        BadModel: `policy` is no model.
        BadConfig: `out` is something else than a policy, or the loss became no number.
        StoreFull: the disk refused; what was at `out` stays.

    Source: Rafailov et al. 2023 (arXiv 2305.18290), equation 7; hinge SLiC; ipo Azar et al. 2023 (arXiv 2310.12036),
        equation 17, log-ratios averaged over tokens; the added likelihood as in RPO (Pang et al. 2024,
        arXiv 2404.19733), there normalised by answer, here by batch; Step-DPO (Lai et al. 2024, arXiv 2406.18629).
    """
    saving.check_out(out)
    check_rows(pairs, PAIR_COLUMNS)
    kept = pairs if config.max_length is None else pairs.filter(config.max_length >= PAIR_LENGTH)
    if kept.is_empty():
        raise BadInput(f"all {len(pairs)} pairs have over {config.max_length} tokens", remedy="raise max_length")
    parent = runs.read_policy(policy)
    with runs.quiet(), tempfile.TemporaryDirectory() as scratch:
        trainer = dpo_trainer(kept, policy=parent, config=config, scratch=scratch)
        report = runs.run(trainer, out=out, skipped=len(pairs) - len(kept), on_progress=on_progress)
    digest = token_digest(kept, PAIR_COLUMNS)
    source = saving.trace_lineage(parent, config, method="dpo", digest=digest, report=report, inputs=inputs)
    if trainer.is_world_process_zero():
        saving.save_policy(trainer.model, parent.path, out=out, lineage=source, report=report)
    return report
