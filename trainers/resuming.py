"""Heavy: torch, accelerate. The folder beside a policy with its run's checkpoints, from which a killed run goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from pipeline.errors import BadConfig, BadInput, BadModel

STATE = "trainer_state.json"
"""The last file of a checkpoint to be written."""


@contextmanager
def training_folder(out: Path, made_from: Mapping[str, Any]) -> Iterator[Path]:
    """`.NAME.training` beside the policy NAME; taken away when the run has ended, by success or by refusal.

    Checkpoints of a run made from anything else are removed first.

    Args:
        out: the policy's folder.
        made_from: all that the outcome of the run depends on, as JSON.
    """
    folder, state = out.with_name(f".{out.name}.training"), PartialState(cpu=not torch.accelerator.is_available())
    if state.is_main_process:
        text = json.dumps(made_from, indent=2, sort_keys=True)
        said = folder / "run.json"
        if not (said.exists() and said.read_text() == text):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            said.write_text(text)
    state.wait_for_everyone()
    try:
        yield folder
    except (BadConfig, BadInput, BadModel):
        _remove(folder, state)
        raise
    _remove(folder, state)


def last_checkpoint(folder: Path) -> Path | None:
    """The latest checkpoint that was written to its end."""
    whole = [path for path in folder.glob("checkpoint-*") if _readable(path / STATE)]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _readable(file: Path) -> bool:
    try:
        return bool(json.loads(file.read_text()))
    except (OSError, ValueError):
        return False


def _remove(folder: Path, state: PartialState) -> None:
    if state.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)
