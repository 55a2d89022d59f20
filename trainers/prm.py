"""Heavy: torch, transformers. A process reward model by token classification, on rows of `prm_steps`, token for token.

A policy's backbone gets a head of two classes, which is read at the last token of every step. The loop is
transformers'; batch and loss are overridden, nothing else.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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

from pipeline.errors import BadInput, BadModel
from pipeline.generation.policies import Policy
from pipeline.labels.prm import CLASSES
from trainers import runs, saving
from trainers.data import check_fit, check_rows, check_spelling, row_name, token_digest
from trainers.gathering import whole_model
from trainers.prm_loss import prm_loss
from trainers.prm_recipe import PrmRecipe
from trainers.resuming import last_checkpoint, training_folder
from trainers.runs import OnTrainingProgress, TrainingReport

COLUMNS = ("input_ids", "step_ends")
LENGTH = pl.col("input_ids").list.len()


class PrmTrainer(Trainer):
    """transformers' Trainer with the loss of `prm_loss`; logs the share of labels on the right side too."""

    _accuracies: list[Tensor]

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """The mean over the batch's labelled steps."""
        del num_items_in_batch
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        found = prm_loss(outputs.logits, inputs["labels"])
        self._accuracies = [*getattr(self, "_accuracies", []), found.accuracy]
        return (found.loss, outputs) if return_outputs else found.loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the mean over the batches since the last time beside the loss."""
        seen = getattr(self, "_accuracies", [])
        if "loss" in logs and seen:
            logs["mean_token_accuracy"] = float(torch.stack(seen).mean())
            self._accuracies = []
        super().log(logs, start_time)


def step_dataset(rows: pl.DataFrame, *, target: str) -> Dataset:
    """Rows of `prm_steps` with `input_ids`, `step_ends` and `targets`, in the order given; attempts without a label
    are left out.

    Raises:
        BadInput: no row has a label.
    """
    targets = pl.col(target).list.eval(pl.element().cast(pl.Float32))
    found = rows.select(*COLUMNS, targets=targets).filter(pl.col("targets").list.drop_nulls().list.len() > 0)
    if found.is_empty():
        raise BadInput(
            f"{row_name(rows)}: no step has a {target} label, nor has any of the {len(rows)} rows",
            remedy="choose the other target, or another labeller",
        )
    return Dataset.from_polars(found.rechunk())


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
    """The trainer, ready to run.

    Args:
        rows: rows of the `prm_steps` table.
        policy: whose backbone training starts from.
        recipe: of the run.
        folder: for checkpoints.

    Raises:
        BadInput: a row does not fit the policy or its tokenizer, or none has a label.
        BadModel: the policy cannot be loaded.
    """
    model = load_backbone(policy, seed=recipe.seed)
    check_fit(rows, COLUMNS[:1], length=LENGTH, vocabulary=model.config.vocab_size, positions=policy.max_length)
    spelt = rows.with_columns(last=pl.col("steps").list.last()) if "steps" in rows.columns else rows
    check_spelling(spelt, COLUMNS[:1], text="last", decode=runs.decoder(policy))
    arguments = runs.shared_arguments(recipe, scratch=str(folder)) | {
        "remove_unused_columns": False,
        "save_strategy": "steps",
        "save_steps": recipe.checkpoint_every,
        "save_total_limit": 1,
    }
    return PrmTrainer(
        model=model,
        args=TrainingArguments(**arguments),
        train_dataset=step_dataset(rows, target=recipe.target),
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
    saving.check_out(out)
    check_rows(rows, (*COLUMNS, recipe.target))
    parent, most = runs.read_policy(policy), recipe.max_length
    kept = rows if most is None else rows.filter(most >= LENGTH)
    if kept.is_empty():
        raise BadInput(f"all {len(rows)} rows have more than max_length {most} tokens", remedy="raise max_length")
    digest = token_digest(kept, (*COLUMNS, recipe.target))
    made_from = saving.made_from(parent, recipe, method="prm", digest=digest, inputs=inputs)
    with (
        runs.quiet(),
        saving.weight_errors(out, setting="BRANCHPOINT_POLICIES"),
        training_folder(out, made_from) as folder,
    ):
        trainer = prm_trainer(kept, policy=parent, recipe=recipe, folder=folder)
        report = runs.run(
            trainer,
            out=out,
            skipped=len(rows) - len(kept),
            checkpoint=last_checkpoint(folder),
            on_progress=on_progress,
        )
        source = saving.trace_lineage(parent, recipe, method="prm", digest=digest, report=report, inputs=inputs)
        model = whole_model(trainer, lambda: load_backbone(parent, seed=recipe.seed))
        if model is not None:
            form = _form(parent, model, folder / "form")
            saving.save_policy(model, form, out=out, lineage=source, report=report)
        trainer.accelerator.wait_for_everyone()
    return report


def _head() -> dict[str, Any]:
    """What the configuration of a PRM says of its head."""
    return {
        "id2label": dict(enumerate(CLASSES)),
        "label2id": {name: number for number, name in enumerate(CLASSES)},
        "classifier_dropout": 0.0,
    }


def _form(parent: Policy, model: PreTrainedModel, folder: Path) -> Path:
    """A folder of what is not weights: the parent's tokenizer and its configuration with another head and no end."""
    folder.mkdir(exist_ok=True)
    config = json.loads((parent.path / "config.json").read_text()) | _head() | {"architectures": [type(model).__name__]}
    config.pop("eos_token_id", None)
    (folder / "config.json").write_text(json.dumps(config))
    for name in saving.TOKENIZER_FILES:
        if (parent.path / name).exists():
            shutil.copyfile(parent.path / name, folder / name)
    return folder
