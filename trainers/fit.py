"""Heavy: torch, transformers. From rows to a policy's folder: what every method's run has in common.

Knows no objective: a method hands in a function that makes its trainer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor
from transformers import PreTrainedModel, Trainer, TrainingArguments

from pipeline.builders.packing import Forecast, forecast
from pipeline.generation.policies import Policy
from trainers import runs, saving
from trainers.data import held_out_split, token_digest
from trainers.gathering import whole_model
from trainers.packed.losses import Loss
from trainers.packed.rows import Batch, Packed
from trainers.packed.trainer import PackedTrainer
from trainers.recipes import RunRecipe
from trainers.resuming import last_checkpoint, training_folder
from trainers.runs import OnTrainingProgress, TrainingReport

LOG = logging.getLogger(__name__)
REFERENCE = "reference.npy"


class Ready(NamedTuple):
    """A trainer that is ready to run. forecast: what packing saves; None: rows apart."""

    trainer: Trainer
    forecast: Forecast | None = None


Make = Callable[[pl.DataFrame, pl.DataFrame | None, Policy, Path], Ready]
"""Of rows to train on, held-out rows, the parent, and a folder for checkpoints."""
Load = Callable[[Policy], PreTrainedModel]
Form = Callable[[Policy, PreTrainedModel, Path], Path]
"""Of the parent, the trained model, and a folder to write to."""


def fit(
    rows: pl.DataFrame,
    make: Make,
    *,
    policy: Path,
    out: Path,
    recipe: RunRecipe,
    method: str,
    columns: Sequence[str],
    load: Load = runs.load_model,
    form: Form = lambda parent, model, folder: parent.path,
    skipped: int = 0,
    inputs: Mapping[str, Any] | None = None,
    on_progress: OnTrainingProgress | None = None,
) -> TrainingReport:
    """Train, going on from a checkpoint of the very same run, and write the policy.

    Args:
        rows: of a training table, all checked that can be without the model.
        make: makes the trainer.
        policy: folder of the parent.
        out: folder of the new policy.
        recipe: of the run.
        method: what the rows are, for lineage and card.
        columns: of tokens, labels or weights, whose digest names the data.
        load: loads the model from the parent, as it is before training.
        form: names the folder of what the trained model has beside its weights.
        skipped: rows left out beforehand.
        inputs: what the caller made the policy from.
        on_progress: called after each step.

    Raises:
        BadInput, BadModel, BadConfig, StoreFull: as the methods say.
    """
    saving.check_out(out)
    parent, digest = runs.read_policy(policy), token_digest(rows, columns)
    train, held = held_out_split(rows, share=recipe.held_out, seed=recipe.seed)
    made_from = saving.made_from(parent, recipe, method=method, digest=digest, inputs=inputs)
    with (
        runs.quiet(),
        saving.weight_errors(out, setting="BRANCHPOINT_POLICIES"),
        training_folder(out, made_from) as folder,
    ):
        trainer, saved = make(train, held, parent, folder)
        if saved is not None:
            LOG.info("%s: %s", method, saved)
        report = runs.run(
            trainer,
            out=out,
            rows=len(train),
            skipped=skipped,
            forecast=saved,
            checkpoint=last_checkpoint(folder),
            on_progress=on_progress,
        )
        source = saving.trace_lineage(parent, recipe, method=method, digest=digest, report=report, inputs=inputs)
        model = whole_model(trainer, lambda: runs.adapted(load(parent), recipe))
        if model is not None:
            model = runs.merged(model)
            saving.save_policy(model, form(parent, model, folder), out=out, lineage=source, report=report)
        trainer.accelerator.wait_for_everyone()
    return report


def packed_trainer(
    train: Packed,
    held: Packed | None,
    *,
    policy: Policy,
    recipe: RunRecipe,
    folder: Path,
    loss: Loss,
    kind: type[PackedTrainer] = PackedTrainer,
    load: Load = runs.load_model,
    referenced: bool = False,
    whole_reference: bool = False,
) -> Ready:
    """A trainer of packs.

    Args:
        train, held: packs to train on, and to evaluate on.
        policy: the parent, also the reference.
        recipe: of the run.
        folder: for checkpoints and the reference's log-probabilities.
        loss: of a pack.
        kind: of trainer.
        load: loads the model to train.
        referenced: the loss reads the reference's log-probability of each trained token.
        whole_reference: it reads its whole distribution.
    """
    trainer = kind(
        runs.adapted(load(policy), recipe),
        TrainingArguments(**runs.run_arguments(recipe, folder=folder, held_out=held is not None)),
        train.batches,
        loss=loss,
        held_out=held.batches if held else (),
        reference=runs.load_model(policy) if whole_reference else None,
        callbacks=runs.stopping(recipe),
    )
    if referenced:
        attach_reference(trainer, [*train.batches, *(held.batches if held else [])], stored=folder / REFERENCE)
    return Ready(trainer, forecast(train.packs))


def attach_reference(trainer: PackedTrainer, batches: Sequence[Batch], *, stored: Path) -> None:
    """Give every pack `reference`: the parent's log-probabilities, scored once and kept for a run that goes on."""
    sizes = [len(batch["needed"]) for batch in batches]
    if stored.exists():
        known = torch.from_numpy(np.load(stored)).split(sizes)
    else:
        known: Sequence[Tensor] = trainer.reference_logprobs(batches)
        if trainer.is_world_process_zero():
            part = stored.with_suffix(".part.npy")
            np.save(part, torch.cat(list(known)).numpy())
            part.rename(stored)
    for batch, logprobs in zip(batches, known, strict=True):
        batch["reference"] = logprobs
