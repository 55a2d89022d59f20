"""Heavy: torch, transformers. A process reward model by token classification, on rows of `prm_steps`, token for token.

A policy's backbone gets a head of two classes, which is read at the last token of every step: in packs, or row by row.
The loop is transformers'; batch and loss are overridden, nothing else.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from datasets import Dataset
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    set_seed,
)

from pipeline.builders.packing import as_rows
from pipeline.errors import BadInput, BadModel
from pipeline.generation.policies import Policy
from pipeline.labels.prm import CLASSES
from trainers import runs, saving
from trainers.data import ROW_LENGTH, check_fit, check_rows, check_spelling, group_numbers, row_name, short_rows
from trainers.fit import Ready, fit, packed_trainer
from trainers.packed.forward import class_logits
from trainers.packed.losses import Scored, label_loss
from trainers.packed.rows import Batch, Packed, labelled_packs, tensors_of
from trainers.packed.trainer import PackedTrainer
from trainers.prm_loss import prm_loss
from trainers.prm_recipe import PrmRecipe
from trainers.runs import OnTrainingProgress, TrainingReport

COLUMNS = ("input_ids", "step_ends")


class PackedPrmTrainer(PackedTrainer):
    """A trainer of packs that reads the head in place of log-probabilities."""

    def _score(self, model: PreTrainedModel, batch: Batch) -> Scored:
        return self.loss(batch, class_logits(model, tensors_of(batch), batch["needed"]))


class PrmTrainer(Trainer):
    """transformers' Trainer with the loss of `prm_loss` on padded rows; logs the share of labels on the right side too.

    A step's loss is divided by the labels of all its batches, on whatever device they are.
    """

    def __init__(self, model: PreTrainedModel, args: TrainingArguments, **given: Any):
        super().__init__(model, args, **given)
        self.model_accepts_loss_kwargs = True  # the loss is already divided by the labels of the whole step
        self._accuracies: list[Tensor] = []

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor:
        """Loss of a batch, as its share of the step's."""
        del return_outputs
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        found = prm_loss(outputs.logits, inputs["labels"])
        self._accuracies.append(found.right / found.labels)
        return found.total / num_items_in_batch * self.accelerator.num_processes

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Tensor]], device: torch.device) -> Tensor | None:
        if not batch_samples:
            return None
        labels = sum((~batch["labels"].isnan()).sum() for batch in batch_samples)
        return self.accelerator.reduce(labels.to(device), "sum")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the mean over the batches since the last time beside the loss."""
        if "loss" in logs:
            logs["mean_token_accuracy"] = float(torch.stack(self._accuracies).mean())
            self._accuracies = []
        super().log(logs, start_time)


def labelled_rows(rows: pl.DataFrame, *, target: str) -> pl.DataFrame:
    """Rows of `prm_steps` with `targets`, in the order given; attempts without a label are left out.

    Raises:
        BadInput: no row has a label.
    """
    targets = pl.col(target).list.eval(pl.element().cast(pl.Float32))
    found = rows.with_columns(targets=targets).filter(pl.col("targets").list.drop_nulls().list.len() > 0)
    if found.is_empty():
        raise BadInput(
            f"{row_name(rows)}: no step has a {target} label, nor has any of the {len(rows)} rows",
            remedy="choose the other target, or another labeller",
        )
    return found


def prm_packs(rows: pl.DataFrame, recipe: PrmRecipe) -> Packed:
    """Packs of rows with `targets`."""
    attempts, ends = as_rows(rows["input_ids"]), as_rows(rows["step_ends"])
    labels = np.full(len(attempts.values), np.nan, np.float32)
    said = rows["targets"].explode(empty_as_null=False).to_numpy()
    labels[np.repeat(attempts.offsets[:-1], np.diff(ends.offsets)) + ends.values] = said
    return labelled_packs(
        attempts,
        labels,
        groups=group_numbers(rows, seed=recipe.seed),
        max_tokens=recipe.max_tokens,
        max_rows=recipe.batch_size,
    )


def collate(rows: Sequence[Mapping[str, Sequence]]) -> dict[str, Tensor]:
    """A batch, padded on the right.

    Returns:
        input_ids, attention_mask: `[B, T]` int64. labels: `[B, T]` float32, NaN where there is none.
    """
    ids = [torch.tensor(row["input_ids"]) for row in rows]
    labels = [torch.full((len(row),), torch.nan) for row in ids]
    for label, row in zip(labels, rows, strict=True):
        said = [torch.nan if target is None else target for target in row["targets"]]
        label[torch.tensor(row["step_ends"])] = torch.tensor(said)
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=torch.nan),
    }


def prm_trainer(rows: pl.DataFrame, *, policy: Policy, recipe: PrmRecipe, folder: Path) -> PrmTrainer:
    """The trainer of rows apart, ready to run.

    Args:
        rows: with `input_ids`, `step_ends` and `targets`.
        policy: whose backbone training starts from.
        recipe: of the run.
        folder: for checkpoints.

    Raises:
        BadModel: the policy cannot be loaded.
    """
    return PrmTrainer(
        model=runs.adapted(load_backbone(policy, seed=recipe.seed), recipe),
        args=TrainingArguments(**runs.run_arguments(recipe, folder=folder, held_out=False)),
        train_dataset=Dataset.from_polars(rows.select(*COLUMNS, "targets").rechunk()),
        data_collator=collate,
    )


def load_backbone(policy: Policy, *, seed: int) -> PreTrainedModel:
    """A policy's weights in float32 under a fresh head.

    Raises:
        BadModel: the weights are broken, or the architecture has no token classifier.
    """
    set_seed(seed)
    try:
        config = AutoConfig.from_pretrained(policy.path, local_files_only=True)
        for name, value in _head().items():
            setattr(config, name, value)
        model, info = AutoModelForTokenClassification.from_pretrained(
            policy.path,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadModel(
            f"{policy.path} cannot be loaded as a token classifier: {reason}",
            remedy="give a policy whose architecture transformers has one for",
        ) from error
    lacking = sorted(name for name in info["missing_keys"] if name.startswith(model.base_model_prefix + "."))
    if lacking:
        raise BadModel(f"{policy.path} lacks weights: {lacking[0]}", remedy="save the whole model again")
    return model


def train_prm(
    rows: pl.DataFrame,
    *,
    policy: Path,
    out: Path,
    recipe: PrmRecipe,
    inputs: Mapping[str, Any] | None = None,
    on_progress: OnTrainingProgress | None = None,
) -> TrainingReport:
    """Train a process reward model, going on from a checkpoint of the very same run; the result is its folder, which
    is no policy to sample from.

    Args:
        rows: rows of the `prm_steps` table.
        policy: folder of the policy whose backbone it begins with.
        out: folder of the new model; one already there is replaced.
        recipe: of the run.
        inputs: what the caller made it from, for its lineage.json.
        on_progress: called after each step.

    Returns:
        The numbers of the run; losses in nats a labelled step.

    Raises:
        BadInput: no rows, or a row that does not fit the policy or its tokenizer, or none with a label.
        BadModel: `policy` is no model, or none with a token classifier.
        BadConfig: `out` is something else than a model, or the loss became no number.
        StoreFull: the disk refused; what was at `out` stays.

    Source: Math-Shepherd (Wang et al., 2024), Let's Verify Step by Step (Lightman et al., 2023).
    """
    recipe.check()
    check_rows(rows, (*COLUMNS, recipe.target))
    kept = short_rows(rows, length=ROW_LENGTH, most=recipe.max_length)
    labelled, load = labelled_rows(kept, target=recipe.target), partial(load_backbone, seed=recipe.seed)

    def make(train: pl.DataFrame, held: pl.DataFrame | None, parent: Policy, folder: Path) -> Ready:
        vocabulary, positions = runs.limits(parent)
        check_fit(labelled, COLUMNS[:1], length=ROW_LENGTH, vocabulary=vocabulary, positions=positions)
        spelt = labelled.with_columns(last=pl.col("steps").list.last()) if "steps" in rows.columns else labelled
        check_spelling(spelt, COLUMNS[:1], text="last", decode=runs.decoder(parent))
        if not recipe.packed:
            return Ready(prm_trainer(train, policy=parent, recipe=recipe, folder=folder))
        packs = [None if part is None else prm_packs(part, recipe) for part in (train, held)]
        return packed_trainer(
            *packs,
            policy=parent,
            recipe=recipe,
            folder=folder,
            loss=label_loss(),
            kind=PackedPrmTrainer,
            load=load,
        )

    return fit(
        labelled,
        make,
        policy=policy,
        out=out,
        recipe=recipe,
        method="prm",
        columns=(*COLUMNS, recipe.target),
        load=load,
        form=_form,
        skipped=len(rows) - len(kept),
        inputs=inputs,
        on_progress=on_progress,
    )


def _head() -> dict[str, Any]:
    """What the configuration of a PRM says of its head."""
    return {
        "id2label": dict(enumerate(CLASSES)),
        "label2id": {name: number for number, name in enumerate(CLASSES)},
        "classifier_dropout": 0.0,
    }


def _form(parent: Policy, model: PreTrainedModel, folder: Path) -> Path:
    """A folder of what is not weights: the parent's tokenizer and its configuration with another head and no end."""
    folder = folder / "form"
    folder.mkdir(exist_ok=True)
    config = json.loads((parent.path / "config.json").read_text()) | _head() | {"architectures": [type(model).__name__]}
    config.pop("eos_token_id", None)
    (folder / "config.json").write_text(json.dumps(config))
    for name in saving.TOKENIZER_FILES:
        if (parent.path / name).exists():
            shutil.copyfile(parent.path / name, folder / name)
    return folder
