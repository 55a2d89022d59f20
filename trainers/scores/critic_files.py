"""Heavy: torch, transformers. A critic's folder: its heads, the model below them where it was trained, and lineage.

The folder appears in one rename. Knows no training.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from pipeline.errors import BadModel
from pipeline.generation.policies import Policy
from trainers import runs
from trainers.saving import new_folder
from trainers.scores.critic_recipe import Critic
from trainers.scores.critics import heads
from trainers.scores.forward import open_model

HEADS, BACKBONE = "heads.safetensors", "backbone"


def save_critic(critic: nn.ModuleDict, model: PreTrainedModel | None, *, out: Path, lineage: dict[str, Any]) -> str:
    """Write a critic's folder, in place of one that stands there.

    Args:
        critic: the heads.
        model: below them, where it was trained.
        out: the folder to be.
        lineage: what it was made from; its `config` says kind and width.

    Returns:
        The critic's fingerprint, which lineage.json says too.

    Raises:
        StoreFull: the disk refused; what was there stays.
    """
    with new_folder(out) as part, runs.quiet():
        save_file({name: one.contiguous().cpu() for name, one in critic.state_dict().items()}, part / HEADS)
        if model is not None:
            model.save_pretrained(part / BACKBONE)
        digest = hashlib.sha256(json.dumps(lineage, sort_keys=True).encode())
        for weights in sorted(part.rglob("*.safetensors")):
            with weights.open("rb") as handle:
                hashlib.file_digest(handle, lambda: digest)
        fingerprint = digest.hexdigest()[:16]
        (part / "lineage.json").write_text(json.dumps({**lineage, "fingerprint": fingerprint}, indent=2) + "\n")
    return fingerprint


@lru_cache(maxsize=1)
def load_critic(critic: Critic, policy: Policy) -> tuple[PreTrainedModel, nn.ModuleDict]:
    """A critic's model and heads; the last one asked for is kept.

    Args:
        critic: on disk.
        policy: that it was trained from, whose model is below frozen heads.

    Raises:
        BadModel: it cannot be read.
    """
    if critic.backbone == "trained":
        policy = replace(policy, path=critic.path / BACKBONE, fingerprint=critic.fingerprint)
    model = open_model(policy)
    try:
        config = json.loads((critic.path / "lineage.json").read_text())["config"]
        found = heads(critic.kind, model.config.get_text_config().hidden_size, config["width"])
        found.load_state_dict(load_file(critic.path / HEADS))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise BadModel(
            f"{critic.path} cannot be loaded: {error}", remedy="run `branchpoint-train critic` again"
        ) from error
    return model, found.eval().requires_grad_(False).to(model.device)
