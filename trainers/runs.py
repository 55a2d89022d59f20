"""Heavy: torch, transformers. What every run of a trainer shares: load a policy, train, report.

Knows no objective. The loop, distribution, checkpoints and logging are those of the trainer handed in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import datasets
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.utils import logging as transformers_logging

from pipeline.builders.packing import Forecast
from pipeline.errors import BadConfig, BadModel
from pipeline.generation.policies import Policy, find_policy
from trainers.packed.forward import CLASSIFIERS
from trainers.recipes import RunRecipe

LAST_STEPS = 20
"""Steps at the end over which a run's figures are means."""


class TrainingProgress(NamedTuple):
    """How far a run is: steps done of steps, the last step's loss, seconds since the first."""

    step: int
    steps: int
    loss: float
    seconds: float


OnTrainingProgress = Callable[[TrainingProgress], None]


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """The outcome of a run.

    steps:      optimiser steps taken.
    rows:       rows trained on.
    skipped:    rows left out because they were longer than the recipe's `max_length`.
    first_loss: of the first batch, before any change of the weights.
    last_loss:  of the last batch, before the last change.
    seconds:    of the loop alone.
    curves:     one entry a step: `step`, `loss` and whatever else the trainer logs, all numbers; `eval_loss` and its
                kin where the held-out rows were evaluated.
    out:        the policy's folder.
    held_out:   loss of the held-out rows before and after; None: there are none.
    forecast:   what packing saves; None: rows apart.
    """

    steps: int
    rows: int
    skipped: int
    first_loss: float
    last_loss: float
    seconds: float
    curves: list[dict[str, float]]
    out: Path
    held_out: tuple[float, float] | None = None
    forecast: Forecast | None = None

    @property
    def numbers(self) -> dict[str, float | int]:
        """The run in a few figures."""
        found = {
            "trained_rows": self.rows,
            "steps": self.steps,
            "first_loss": self.first_loss,
            f"mean_loss_last_{LAST_STEPS}": self.late_mean("loss"),
        }
        if self.curves and "epoch" in self.curves[-1]:
            found["passes"] = self.curves[-1]["epoch"]
        if self.held_out is not None:
            found |= dict(zip(("held_out_loss_before", "held_out_loss_after"), self.held_out, strict=True))
        if self.forecast is not None:
            found |= {"path_tokens": self.forecast.path_tokens, "unique_tokens": self.forecast.unique}
        return found

    def late_mean(self, name: str) -> float:
        """Mean of what was logged over the last `LAST_STEPS` steps, or over all where there were fewer.

        One batch is noisy. NaN where it was not logged there.
        """
        late = [entry[name] for entry in self.curves[-LAST_STEPS:] if name in entry]
        return sum(late) / len(late) if late else math.nan


class Recipe(Protocol):
    """What the configurations of all trainers have; they are dataclasses."""

    learning_rate: float
    steps: int
    batch_size: int
    warmup_ratio: float
    seed: int


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no chatter from transformers and datasets within; afterwards as before."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    datasets_bars = not datasets.are_progress_bars_disabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
        if datasets_bars:
            datasets.enable_progress_bars()


def read_policy(path: Path) -> Policy:
    """The policy in this folder, not yet loaded.

    Raises:
        BadModel: the folder holds none.
    """
    return find_policy(str(path.absolute()), policies=Path())


def load_model(policy: Policy) -> PreTrainedModel:
    """The weights in float32, from safetensors on this disk alone.

    Raises:
        BadModel: the weights are broken or are not all of this architecture.
    """
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            policy.path,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadModel(
            f"{policy.path} cannot be loaded: {reason}", remedy="give the folder of a causal language model"
        ) from error
    if info["missing_keys"]:
        raise BadModel(
            f"{policy.path} lacks weights: {sorted(info['missing_keys'])[0]}", remedy="save the whole model again"
        )
    return model


def load_tokenizer(policy: Policy) -> PreTrainedTokenizerBase:
    """The policy's tokenizer; trainers read its padding token and encode nothing with it."""
    return AutoTokenizer.from_pretrained(policy.path, local_files_only=True)


def limits(policy: Policy) -> tuple[int, int]:
    """Ids that the policy has an embedding for, and tokens that it reads at most."""
    config = AutoConfig.from_pretrained(policy.path, local_files_only=True).get_text_config()
    return config.vocab_size, policy.max_length


def decoder(policy: Policy) -> Callable[[list[int]], str]:
    """What tokens spell under the policy's tokenizer, control tokens left out."""
    return partial(load_tokenizer(policy).decode, skip_special_tokens=True)


def shared_arguments(recipe: Recipe, *, scratch: str) -> dict[str, Any]:
    """Arguments every trainer gets: float32, one log line a step, no checkpoint, tracker, bar or upload.

    Args:
        recipe: step count and schedule; the rate rises linearly over `warmup_ratio` of the steps, then falls to 0.
        scratch: a temporary folder.
    """
    return {
        "output_dir": scratch,
        "max_steps": recipe.steps,
        "per_device_train_batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "warmup_steps": recipe.warmup_ratio,
        "seed": recipe.seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cache": False,
        "use_cpu": not torch.accelerator.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
    }


def run_arguments(recipe: RunRecipe, *, folder: Path, held_out: bool) -> dict[str, Any]:
    """As `shared_arguments`, with what a recipe says of checkpoints, evaluation, memory and precision.

    Args:
        recipe: of the run.
        folder: for checkpoints.
        held_out: there are rows for evaluation.
    """
    arguments = shared_arguments(recipe, scratch=str(folder)) | {
        "gradient_accumulation_steps": recipe.accumulate,
        "gradient_checkpointing": recipe.gradient_checkpointing,
        "bf16": recipe.bf16,
        "save_strategy": "steps",
        "save_steps": recipe.checkpoint_every,
        "save_total_limit": 1,
        "restore_callback_states_from_checkpoint": True,
        "remove_unused_columns": False,
    }
    if recipe.packed:
        arguments["per_device_train_batch_size"] = arguments["per_device_eval_batch_size"] = 1
    if held_out:
        arguments |= {
            "eval_strategy": "steps",
            "eval_steps": recipe.checkpoint_every,
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_loss",
            "greater_is_better": False,
        }
    return arguments


def stopping(recipe: RunRecipe) -> list[TrainerCallback]:
    """What ends a run that no longer betters the held-out loss."""
    return [EarlyStoppingCallback(recipe.patience)] if recipe.patience else []


def adapted(model: PreTrainedModel, recipe: RunRecipe) -> PreTrainedModel | PeftModel:
    """The model, with adapters on all its linear layers, drawn by the recipe's seed, where it asks for them."""
    if not recipe.lora_rank:
        return model
    torch.manual_seed(recipe.seed)
    rank, width = recipe.lora_rank, model.config.get_text_config().hidden_size
    if rank > width:
        raise BadConfig(f"lora_rank is {rank}, the model is {width} wide", remedy="set lora_rank lower")
    classifies = model.get_output_embeddings() is None
    adapters = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        exclude_modules=list(CLASSIFIERS) if classifies else None,  # trained whole
        task_type="TOKEN_CLS" if classifies else "CAUSAL_LM",
    )
    return get_peft_model(model, adapters)


def merged(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The model with its adapters merged into the weights."""
    return model.merge_and_unload() if isinstance(model, PeftModel) else model


class ReportProgress(TrainerCallback):
    """Forwards each step's loss, and stops a run whose loss is no longer a number."""

    def __init__(self, on_progress: OnTrainingProgress | None):
        self.on_progress = on_progress
        self.started = time.monotonic()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.started = time.monotonic()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if logs is None or "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise BadConfig(
                f"step {state.global_step}: the loss is {logs['loss']}",
                remedy="lower learning_rate or raise warmup_ratio",
            )
        if self.on_progress is not None:
            seconds = time.monotonic() - self.started
            self.on_progress(TrainingProgress(state.global_step, state.max_steps, logs["loss"], seconds))


def run(
    trainer: Trainer,
    *,
    out: Path,
    rows: int | None = None,
    skipped: int = 0,
    forecast: Forecast | None = None,
    checkpoint: Path | None = None,
    on_progress: OnTrainingProgress | None = None,
) -> TrainingReport:
    """Train to the end of the recipe, from a checkpoint where there is one. Writes nothing but checkpoints.

    Of the weights it ends with nothing is known yet, see `check_weights`.

    Args:
        trainer: ready to run.
        out: where the policy will be.
        rows: trained on; None: as many as the trainer has items.
        skipped: rows left out beforehand.
        forecast: what packing saves.
        checkpoint: to go on from.
        on_progress: called after each step.

    Raises:
        BadConfig: the loss became infinite or no number.
    """
    trainer.remove_callback(PrinterCallback)
    evaluated = trainer.eval_dataset is not None
    before = trainer.evaluate()["eval_loss"] if evaluated else math.nan
    trainer.add_callback(ReportProgress(on_progress))
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    seconds = time.monotonic() - started
    curves = _by_step(trainer.state.log_history)
    return TrainingReport(
        steps=trainer.state.global_step,
        rows=len(trainer.train_dataset) if rows is None else rows,
        skipped=skipped,
        first_loss=curves[0]["loss"],
        last_loss=curves[-1]["loss"],
        seconds=seconds,
        curves=curves,
        out=out,
        held_out=(before, trainer.evaluate()["eval_loss"]) if evaluated else None,
        forecast=forecast,
    )


def check_weights(model: torch.nn.Module) -> None:
    """Refuse a model that its last step spoilt, of which no loss tells.

    Raises:
        BadConfig: a weight is infinite or no number.
    """
    for name, weights in model.named_parameters():
        if not weights.isfinite().all():
            raise BadConfig(f"training left {name} with weights that are no numbers", remedy="lower learning_rate")


def _by_step(logged: list[dict[str, float]]) -> list[dict[str, float]]:
    """What was logged of each step that has a loss, losses of training and of held-out rows in one entry."""
    found: dict[float, dict[str, float]] = {}
    for entry in logged:
        if "train_loss" in entry:
            continue  # transformers' summary of the whole run
        found.setdefault(entry["step"], {}).update(entry)
    return [entry for entry in found.values() if "loss" in entry]
