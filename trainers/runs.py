"""Heavy: torch, transformers. What every run of a trainer shares: load a policy, train, report, save it whole.

Knows no objective. The loop, distribution and logging are those of the trainer handed in.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypedDict

import datasets
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
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

from pipeline.errors import BadConfig, BadModel
from pipeline.generation.policies import Policy, find_policy

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
PANELS = {
    "loss": "loss",
    "rewards/accuracies": "share of pairs ranked right",
    "rewards/margins": "reward margin (nats)",
    "mean_token_accuracy": "share of trained tokens ranked first",
}


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
    curves:     one entry a step: `step`, `loss` and whatever else the trainer logs, all numbers.
    out:        the policy's folder.
    """

    steps: int
    rows: int
    skipped: int
    first_loss: float
    last_loss: float
    seconds: float
    curves: list[dict[str, float]]
    out: Path


class Lineage(TypedDict):
    """What a policy was made from; lineage.json. No time and no path of the machine: same run, same text."""

    method: str
    parent: str
    parent_fingerprint: str
    rows: int
    data_digest: str
    config: dict[str, Any]
    code_version: str
    libraries: dict[str, str]


class Recipe(Protocol):
    """What the configurations of all trainers have; they are dataclasses."""

    learning_rate: float
    steps: int
    batch_size: int
    warmup_ratio: float
    seed: int


def check_recipe(recipe: Recipe) -> None:
    """Refuse numbers no run can use.

    Raises:
        BadConfig: names the field.
    """
    for name in ("steps", "batch_size", "learning_rate"):
        if not getattr(recipe, name) > 0:
            raise BadConfig(f"{name} {getattr(recipe, name)} is not above 0", remedy=f"set {name} above 0")
    if not 0 <= recipe.warmup_ratio < 1:
        raise BadConfig(f"warmup_ratio {recipe.warmup_ratio} is no share of the steps", remedy="choose 0 <= ratio < 1")


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
        "dataloader_pin_memory": torch.cuda.is_available(),
    }


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
    trainer: Trainer, *, out: Path, skipped: int = 0, on_progress: OnTrainingProgress | None = None
) -> TrainingReport:
    """Train to the end of the recipe. Writes nothing.

    Raises:
        BadConfig: the loss became infinite or no number.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(ReportProgress(on_progress))
    started = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - started
    curves = [entry for entry in trainer.state.log_history if "loss" in entry]
    return TrainingReport(
        steps=trainer.state.global_step,
        rows=len(trainer.train_dataset),
        skipped=skipped,
        first_loss=curves[0]["loss"],
        last_loss=curves[-1]["loss"],
        seconds=seconds,
        curves=curves,
        out=out,
    )


def trace_lineage(policy: Policy, config: Recipe, *, method: str, rows: int, digest: str) -> Lineage:
    """What a policy trained from `policy` on rows of this digest came from."""
    return {
        "method": method,
        "parent": policy.name,
        "parent_fingerprint": policy.fingerprint,
        "rows": rows,
        "data_digest": digest,
        "config": asdict(config),
        "code_version": metadata.version("branchpoint"),
        "libraries": {name: metadata.version(name) for name in ("torch", "transformers", "trl")},
    }


def check_out(out: Path) -> None:
    """Refuse a target whose replacement would destroy something else than a policy.

    Raises:
        BadConfig: `out` is a file, or a folder with content but no config.json.
    """
    if out.is_dir() and (not any(out.iterdir()) or (out / "config.json").exists()):
        return
    if out.exists():
        raise BadConfig(f"{out} exists and is no policy", remedy="choose another folder, or remove it yourself")


def save_policy(
    model: PreTrainedModel, tokenizer_dir: Path, *, out: Path, lineage: Lineage, report: TrainingReport
) -> None:
    """Write a policy's folder in one rename; a policy already there is replaced.

    Weights are safetensors. Tokenizer files and generation_config.json are the parent's byte for byte, config.json
    is the parent's but for the type of the weights: trainers change end tokens and cache settings in memory, and a
    trained policy must stop and be sampled just as its parent. Beside them lineage.json, README.md, curves.png.

    Args:
        model: the trained model.
        tokenizer_dir: the parent's folder.
        out: the folder to be.
        lineage: what it was made from.
        report: of the run.

    Raises:
        BadConfig: `out` exists and is no policy.
    """
    check_out(out)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        with quiet():
            model.save_pretrained(part)
        config = json.loads((tokenizer_dir / "config.json").read_text())
        config.pop("torch_dtype", None)
        config["dtype"] = str(model.dtype).removeprefix("torch.")
        _write_json(part / "config.json", config)
        for weights in part.glob("*.safetensors"):
            weights.chmod((part / "config.json").stat().st_mode)  # safetensors lets nobody else read them
        (part / "generation_config.json").unlink(missing_ok=True)
        for name in ("generation_config.json", *TOKENIZER_FILES):
            if (tokenizer_dir / name).exists():
                shutil.copyfile(tokenizer_dir / name, part / name)
        _write_json(part / "lineage.json", lineage)
        (part / "README.md").write_text(_card(out.name, lineage, report))
        plot_curves(report, part / "curves.png")
        if out.exists():
            out.rename(old)
        part.rename(out)
    finally:
        if old.exists() and not out.exists():
            old.rename(out)
        shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(part, ignore_errors=True)


def plot_curves(report: TrainingReport, path: Path) -> None:
    """Draw what the run logged, one panel a quantity of PANELS, against the step."""
    names = [name for name in PANELS if name in report.curves[0]]
    figure = Figure(figsize=(4.5 * len(names), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    steps = [entry["step"] for entry in report.curves]
    for name, axes in zip(names, figure.subplots(1, len(names), squeeze=False)[0], strict=True):
        axes.plot(steps, [entry.get(name, math.nan) for entry in report.curves], linewidth=1)
        axes.set_title(PANELS[name], fontsize=10)
        axes.set_xlabel("step")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def _card(name: str, lineage: Lineage, report: TrainingReport) -> str:
    """The model card."""
    numbers = [("steps", report.steps), ("rows", report.rows), ("rows left out as too long", report.skipped)]
    for when, entry in (("first", report.curves[0]), ("last", report.curves[-1])):
        numbers += [(f"{when} {label}", f"{entry[name]:.4g}") for name, label in PANELS.items() if name in entry]
    settings = "\n".join(f"| {key} | {value} |" for key, value in lineage["config"].items())
    measured = "\n".join(f"| {key} | {value} |" for key, value in numbers)
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags:
- branchpoint
- {lineage["method"]}
---

# {name}

Trained by Branchpoint {lineage["code_version"]} with `{lineage["method"]}` from `{lineage["parent"]}`
(fingerprint `{lineage["parent_fingerprint"]}`) on {lineage["rows"]} rows (digest `{lineage["data_digest"]}`).
Tokenizer, chat template and end tokens are the parent's. `lineage.json` has the same facts for machines.

| run | |
|---|---|
{measured}

| setting | |
|---|---|
{settings}

![training curves](curves.png)
"""


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
