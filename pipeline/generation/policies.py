"""Policies on disk: find one by name or path, tell whether it is one, and fingerprint it.

A policy is a folder in the Hugging Face form: config.json, weights, tokenizer. Loads no weights.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pipeline.errors import BadModel

EMBEDDED = {"tiny": Path(__file__).parent / "embedded" / "tiny"}


@dataclass(frozen=True, slots=True)
class Policy:
    """A model to sample from.

    name:        for people and for file names.
    fingerprint: of config, tokenizer and weights.
    end_ids:     tokens that end an answer.
    max_length:  positions the model has.
    """

    name: str
    path: Path
    fingerprint: str
    end_ids: tuple[int, ...]
    max_length: int


def find_policy(name: str, *, policies: Path) -> Policy:
    """A policy by name (embedded, or trained under `policies`) or by path.

    Raises:
        BadModel: there is none of that name, or the folder is no model.
    """
    if name in EMBEDDED:
        return _read_policy(name, EMBEDDED[name])
    trained = policies / name
    path = trained if trained.is_dir() else Path(name)
    if not path.is_dir():
        known = sorted({*EMBEDDED, *(file.parent.name for file in policies.glob("[!.]*/config.json"))})
        raise BadModel(
            f"policy {name!r} is neither a folder nor a known name",
            remedy=f"give the folder of a Hugging Face model or one of {', '.join(known)}",
        )
    return _read_policy(path.name, path)


def _read_policy(name: str, path: Path) -> Policy:
    config_file = path / "config.json"
    try:
        config = json.loads(config_file.read_text())
        max_length = int(config["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadModel(
            f"{path} is no model: config.json is missing or unreadable",
            remedy="give a folder with config.json, weights and tokenizer",
        ) from error
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        raise BadModel(
            f"{path} is no model: it has no *.safetensors", remedy="save the model with save_pretrained first"
        )
    if not (path / "tokenizer.json").exists():
        raise BadModel(
            f"{path} is no model: it has no tokenizer.json", remedy="save the tokenizer into the same folder"
        )
    if any(str(name).endswith("ForTokenClassification") for name in config.get("architectures") or ()):
        raise BadModel(
            f"{path} scores tokens and writes none", remedy="give a causal language model; a PRM goes to --prm"
        )
    end_ids = _end_ids(path, config)
    changed = max(file.stat().st_mtime_ns for file in path.iterdir())
    return Policy(name, path, _fingerprint(path, changed), end_ids, max_length)


def _end_ids(path: Path, config: dict) -> tuple[int, ...]:
    """The tokens that end an answer: as generation_config.json has them, else config.json."""
    file = path / "generation_config.json"
    try:
        found = json.loads(file.read_text()).get("eos_token_id") if file.exists() else None
    except (OSError, ValueError, AttributeError) as error:
        raise BadModel(f"{file} cannot be read as a JSON object", remedy="mend it or remove it") from error
    found = config.get("eos_token_id") if found is None else found
    if found is None:
        raise BadModel(f"{path} names no end token", remedy="set eos_token_id in generation_config.json")
    ids = found if isinstance(found, list) else [found]
    if not ids or not all(type(one) is int and one >= 0 for one in ids):
        raise BadModel(f"{path}: eos_token_id is {found!r}", remedy="set it to a token id or a list of them")
    return tuple(ids)


@lru_cache(maxsize=32)
def _fingerprint(path: Path, changed: int) -> str:
    """Hex digest of config, tokenizer and weights, every byte of them.

    changed: when the newest file was written, so that a folder written anew is read anew.
    """
    del changed
    digest = hashlib.sha256()
    names = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    for file in sorted(p for p in path.iterdir() if p.name in names or p.suffix == ".safetensors"):
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        with file.open("rb") as handle:
            hashlib.file_digest(handle, lambda: digest)
    return digest.hexdigest()[:16]
