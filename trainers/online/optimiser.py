"""Heavy: torch, safetensors. The state of AdamW in a file of tensors, written in one rename."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.errors import BadModel

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def save_state(optimiser: torch.optim.Optimizer, model: nn.Module, path: Path) -> None:
    """Write the moments of every parameter that has any, by the parameter's name."""
    found = {
        f"{moment}/{name}": optimiser.state[parameter][moment].contiguous()
        for name, parameter in model.named_parameters()
        if parameter in optimiser.state
        for moment in MOMENTS
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(found, part)
    with part.open("rb") as handle:
        os.fsync(handle.fileno())
    part.rename(path)


def load_state(optimiser: torch.optim.Optimizer, model: nn.Module, path: Path) -> None:
    """Put the moments back.

    Raises:
        BadModel: the file is none, or of another model.
    """
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadModel(f"{path} is no optimiser state: {error}", remedy="remove its folder and begin anew") from error
    for name, parameter in model.named_parameters():
        moments = {moment: found.get(f"{moment}/{name}") for moment in MOMENTS}
        if all(moment is None for moment in moments.values()):
            continue
        if moments["exp_avg"] is None or moments["exp_avg"].shape != parameter.shape:
            raise BadModel(f"{path} has no state of {name}", remedy="remove its folder and begin anew")
        optimiser.state[parameter] = {
            moment: tensor if moment == "step" else tensor.to(parameter.device) for moment, tensor in moments.items()
        }
