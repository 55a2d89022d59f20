"""Heavy: torch, transformers. A trained policy's folder: weights, the parent's tokenizer, lineage, card, curves.

Knows no objective and does not train. The folder appears in one rename, whatever it holds.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, TypedDict

from matplotlib.figure import Figure
from safetensors import SafetensorError
from transformers import PreTrainedModel

from pipeline.errors import BadConfig
from pipeline.generation.policies import Policy
from pipeline.png import save_png
from pipeline.store import folders
from pipeline.store.write import disk_errors
from trainers.runs import LAST_STEPS, Recipe, TrainingReport, quiet

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
PACKAGES = ("schemas", "pipeline", "trainers")
PANELS = {
    "loss": "loss",
    "rewards/accuracies": "share of pairs ranked right",
    "rewards/margins": "reward margin (nats)",
    "kl": "KL from the parent (nats a token)",
    "eval_loss": "loss of held-out rows",
    "mean_token_accuracy": "share of trained tokens ranked first",
}


class Lineage(TypedDict):
    """What a policy was made from; lineage.json. No time and no path of the machine: same run, same text.

    source_digest: of the code that trained it, see `source_digest`.
    inputs:  what the caller made it from, in the caller's words; a caller that finds its own need not train again.
    numbers: of the run.
    """

    method: str
    parent: str
    parent_fingerprint: str
    rows: int
    data_digest: str
    config: dict[str, Any]
    code_version: str
    source_digest: str
    libraries: dict[str, str]
    inputs: dict[str, Any]
    numbers: dict[str, float | int]


@contextmanager
def weight_errors(path: Path, *, setting: str) -> Iterator[None]:
    """As `disk_errors`, also where safetensors met the refusal, which gives its number in words alone.

    Raises:
        StoreFull: the disk is full or may not be written.
    """
    with disk_errors(path, setting=setting):
        try:
            yield
        except SafetensorError as error:
            found = re.search(r"os error (\d+)", str(error))
            if found is None:
                raise
            raise OSError(int(found[1]), os.strerror(int(found[1]))) from error


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A model's folder to be filled, which takes the place of `out` in one rename once the block ends and its files are
    on the disk.

    Raises:
        StoreFull: the disk refused; nothing is left behind, and what was there stays.
    """
    setting = "BRANCHPOINT_POLICIES"
    with folders.new_folder(out, setting=setting, alone=True) as part, weight_errors(out, setting=setting):
        yield part
        for file in (path for path in part.rglob("*") if path.is_file()):
            with file.open("rb") as handle:
                os.fsync(handle.fileno())


def trace_lineage(
    policy: Policy,
    config: Recipe,
    *,
    method: str,
    digest: str,
    report: TrainingReport,
    inputs: Mapping[str, Any] | None,
) -> Lineage:
    """What a policy trained from `policy` on rows of this digest came from."""
    source = made_from(policy, config, method=method, digest=digest, inputs=inputs)
    return {**source, "source_digest": source_digest(), "rows": report.rows, "numbers": report.numbers}


def made_from(
    policy: Policy, config: Recipe, *, method: str, digest: str, inputs: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What is known of a policy's lineage before it is trained: all that the outcome depends on."""
    return {
        "method": method,
        "parent": policy.name,
        "parent_fingerprint": policy.fingerprint,
        "data_digest": digest,
        "config": asdict(config),
        "code_version": metadata.version("branchpoint"),
        "libraries": {name: metadata.version(name) for name in ("torch", "transformers", "trl")},
        "inputs": dict(inputs or {}),
    }


@cache
def source_digest() -> str:
    """12 hex digits that change with any line of the schemas, the pipeline or the trainers."""
    digest, root = hashlib.sha256(), Path(__file__).parents[1]
    for file in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        digest.update(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def check_out(out: Path) -> None:
    """Refuse, before any step is paid, a target that cannot be or whose replacement would destroy something else.

    Raises:
        BadConfig: `out` is a file, or a folder with content but no config.json.
        StoreFull: there can be no folder at `out`.
    """
    with disk_errors(out, setting="BRANCHPOINT_POLICIES"):
        policy = out.is_dir() and (not any(out.iterdir()) or (out / "config.json").exists())
        if out.exists() and not policy:
            raise BadConfig(f"{out} exists and is no policy", remedy="choose another folder, or remove it yourself")
        above = next(folder for folder in out.absolute().parents if os.path.lexists(folder))
        if not above.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{above} is no folder")
        if not os.access(above, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"{above} is read-only")


def save_policy(
    model: PreTrainedModel, tokenizer_dir: Path, *, out: Path, lineage: Lineage, report: TrainingReport
) -> None:
    """Write a policy's folder, in place of one that stands there.

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
        StoreFull: the disk refused; nothing is left behind, and what was there stays.
    """
    check_out(out)
    config = json.loads((tokenizer_dir / "config.json").read_text())
    config.pop("torch_dtype", None)
    config["dtype"] = str(model.dtype).removeprefix("torch.")
    with new_folder(out) as part:
        with quiet():
            model.save_pretrained(part)
        _write_json(part / "config.json", config)
        for weights in part.glob("*.safetensors"):
            weights.chmod((part / "config.json").stat().st_mode)  # safetensors lets nobody else read them
        (part / "generation_config.json").unlink(missing_ok=True)
        for name in ("generation_config.json", *TOKENIZER_FILES):
            if (tokenizer_dir / name).exists():
                shutil.copyfile(tokenizer_dir / name, part / name)
        _write_json(part / "lineage.json", lineage)
        (part / "README.md").write_text(_card(out.name, lineage, report, task=_task(config)))
        plot_curves(report, part / "curves.png")


def plot_curves(report: TrainingReport, path: Path) -> None:
    """Draw what the run logged, one panel a quantity of PANELS, against the step."""
    names = _logged(report)
    figure = Figure(figsize=(4.5 * len(names), 3.2), layout="constrained")
    steps = [entry["step"] for entry in report.curves]
    for name, axes in zip(names, figure.subplots(1, len(names), squeeze=False)[0], strict=True):
        seen = [(step, entry[name]) for step, entry in zip(steps, report.curves, strict=True) if name in entry]
        axes.plot(*zip(*seen, strict=True), linewidth=1)
        axes.set_title(PANELS[name], fontsize=10)
        axes.set_xlabel("step")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    save_png(figure, path)


def _logged(report: TrainingReport) -> list[str]:
    """The quantities of PANELS that the run logged."""
    return [name for name in PANELS if any(name in entry for entry in report.curves)]


def _task(config: Mapping[str, Any]) -> str:
    """The Hub's word for what a model of this configuration does."""
    classes = any(name.endswith("ForTokenClassification") for name in config.get("architectures") or ())
    return "token-classification" if classes else "text-generation"


def _card(name: str, lineage: Lineage, report: TrainingReport, *, task: str) -> str:
    """The model card."""
    numbers = [("steps", report.steps), ("rows", report.rows), ("rows left out as too long", report.skipped)]
    if report.forecast is not None:
        numbers += [("path tokens", report.forecast.path_tokens), ("unique tokens", report.forecast.unique)]
    if report.held_out is not None:
        before, after = report.held_out
        numbers += [("held-out loss before", f"{before:.4g}"), ("held-out loss after", f"{after:.4g}")]
    logged = {name: PANELS[name] for name in _logged(report) if name in report.curves[0]}
    numbers += [(f"{label}, first batch", f"{report.curves[0][name]:.4g}") for name, label in logged.items()]
    late = f"mean of the last {min(LAST_STEPS, report.steps)} steps"
    numbers += [(f"{label}, {late}", f"{report.late_mean(name):.4g}") for name, label in logged.items()]
    settings = "\n".join(
        f"| {key} | {'not set' if value is None else value} |" for key, value in lineage["config"].items()
    )
    measured = "\n".join(f"| {key} | {value} |" for key, value in numbers)
    return f"""---
library_name: transformers
pipeline_tag: {task}
tags:
- branchpoint
- {lineage["method"]}
---

# {name}

Trained by Branchpoint {lineage["code_version"]} (source `{lineage["source_digest"]}`) with `{lineage["method"]}` from
`{lineage["parent"]}` (fingerprint `{lineage["parent_fingerprint"]}`)
on {lineage["rows"]} rows (digest `{lineage["data_digest"]}`).
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
