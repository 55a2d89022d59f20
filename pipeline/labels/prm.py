"""Process reward models on disk: find one by name or path, tell whether it is one, and fingerprint it.

A PRM is a folder in the Hugging Face form, of a token classifier with the classes `wrong` and `right`. It has no end
token: it is no policy to sample from. Loads no weights.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import BadModel

FOLDER = "prm"
"""Where PRMs stand, below the trained policies."""
CLASSES = ("wrong", "right")
"""What a step is told apart into, in the order of the logits."""


@dataclass(frozen=True, slots=True)
class Prm:
    """A process reward model.

    name:        for people and for file names.
    fingerprint: of config and weights.
    max_length:  positions the model has.
    """

    name: str
    path: Path
    fingerprint: str
    max_length: int


def prm_folder(name: str, *, policies: Path) -> Path:
    """Where a trained PRM of this name stands."""
    return policies / FOLDER / name


def find_prm(name: str, *, policies: Path) -> Prm:
    """A PRM by name (trained, under `policies`) or by path.

    Raises:
        BadModel: there is none of that name, or the folder is no PRM.
    """
    trained = prm_folder(name, policies=policies)
    path = trained if name and trained.is_dir() else Path(name)
    if not name or not path.is_dir():
        known = sorted(file.parent.name for file in policies.glob(f"{FOLDER}/[!.]*/config.json"))
        raise BadModel(
            f"process reward model {name!r} is neither a folder nor a known name"
            if name
            else "no process reward model is named",
            remedy=f"give one of {', '.join(known)}, or its folder" if known else "run `branchpoint-train prm` first",
        )
    try:
        config = json.loads((path / "config.json").read_text())
        classes, max_length = config.get("id2label", {}), int(config["max_position_embeddings"])
        found = tuple(classes[str(number)] for number in range(len(classes)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadModel(
            f"{path} is no process reward model: config.json is missing or unreadable",
            remedy="give a folder that `branchpoint-train prm` wrote",
        ) from error
    weights = sorted(path.glob("*.safetensors"))
    if found != CLASSES or not weights:
        raise BadModel(
            f"{path} is no process reward model: it has {'no *.safetensors' if not weights else f'classes {found}'}",
            remedy=f"give a token classifier with the classes {CLASSES}",
        )
    digest = hashlib.sha256()
    for file in (path / "config.json", *weights):
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        with file.open("rb") as handle:
            hashlib.file_digest(handle, lambda: digest)
    return Prm(path.name, path, digest.hexdigest()[:16], max_length)
