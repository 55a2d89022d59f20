"""What a server serves: whether it is the policy, under which name, and what its tokens depend on.

A server cannot be asked for weights or dtype, so those that `branchpoint serve` starts carry them in the model's name:
`tiny@5f0c….float32.vllm-0.32.0` is the policy's name and the fingerprint of the engine `vllm` on it. Equal fingerprints
give equal tokens, whichever way the engine is reached, and share their answers in the ledger. Of other servers only the
model's name and the version are known; their fingerprint says so.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import PurePosixPath
from typing import NamedTuple, TypeVar

from aiohttp import ClientError, ClientSession, ClientTimeout
from pydantic import BaseModel, ValidationError

from pipeline.errors import BadConfig, BadModel
from pipeline.generation.policies import Policy
from pipeline.generation.served.background import background
from pipeline.generation.served.faults import Fault, Refused, check_status

TIMEOUT = ClientTimeout(total=30, sock_connect=10)
_STATED = re.compile(r".+@(?P<fingerprint>(?P<policy>[0-9a-f]{16})\.[^.]+\.(?P<engine>vllm.*))")
_REMEDY = "start one with `branchpoint serve --policy {}`, or take it off the list"


class Identity(NamedTuple):
    """A server that serves the policy.

    model:       the policy's name there.
    fingerprint: what the tokens depend on, as far as the server tells.
    """

    model: str
    fingerprint: str


class Model(BaseModel):
    """An entry of /v1/models."""

    id: str
    root: str | None = None
    max_model_len: int | None = None


class _Models(BaseModel):
    data: list[Model]


class _Version(BaseModel):
    version: str


class _Health(BaseModel):
    pass


_Said = TypeVar("_Said", bound=BaseModel)


def served_name(policy: Policy, fingerprint: str) -> str:
    """The model's name on a server of our own: the policy's, and the engine's fingerprint."""
    return f"{policy.name}@{fingerprint}"


def agreed_fingerprint(urls: Sequence[str], policy: Policy, *, length: int) -> str:
    """Ask every server once what it serves; those that do not answer now are asked again while a run goes on.

    Args:
        length: positions that prompt and answer may have.

    Raises:
        BadConfig: none answers, or two differ in what the tokens depend on.
        BadModel: one serves something else than the policy.
    """
    with background(nullcontext()) as submit:
        found = submit(_ask_all(urls, policy, length)).result()
    answers = {url: one for url, one in found.items() if isinstance(one, Identity)}
    if not answers:
        said = "; ".join(f"{url}: {fault}" for url, fault in found.items())
        raise BadConfig(f"no server answers: {said}", remedy=_REMEDY.format(policy.name))
    by_fingerprint = {one.fingerprint: url for url, one in answers.items()}
    if len(by_fingerprint) > 1:
        (one, first), (other, second), *_ = by_fingerprint.items()
        raise BadConfig(
            f"{first} and {second} would give other tokens: {one} and {other}",
            remedy="use servers of one dtype and one version of vLLM at a time",
        )
    return next(iter(by_fingerprint))


async def identify(session: ClientSession, url: str, policy: Policy, *, length: int) -> Identity:
    """Ask a server how it is and what it serves.

    Raises:
        Fault: it does not answer, or not as vLLM does.
        BadModel: it serves something else than the policy, gives prompt and answer fewer positions, or wants a key.
    """
    try:
        await _get(session, f"{url}/health", _Health)
        version = (await _get(session, f"{url}/version", _Version)).version
        models = (await _get(session, f"{url}/v1/models", _Models)).data
    except (ClientError, OSError) as error:
        raise Fault(str(error) or type(error).__name__) from error
    except Refused as refused:
        raise BadModel(f"{url} {refused}", remedy="start it without an API key, or take it off the list") from refused
    return read_identity(url, models, version, policy, length=length)


def read_identity(url: str, models: Sequence[Model], version: str, policy: Policy, *, length: int) -> Identity:
    """Find the policy among the models of a server.

    Raises:
        BadModel: it is not there, or has fewer positions than `length`.
    """
    for model in models:
        fingerprint = _fingerprint(model, version, policy)
        if fingerprint is None:
            continue
        if model.max_model_len is not None and model.max_model_len < length:
            raise BadModel(
                f"{url} gives prompt and answer {model.max_model_len} positions, {length} are asked for",
                remedy=f"start it with --max-model-len {length}",
            )
        return Identity(model.id, fingerprint)
    raise BadModel(
        f"{url} serves {', '.join(model.id for model in models) or 'nothing'} with vLLM {version}, "
        f"not the policy {policy.name} ({policy.fingerprint})",
        remedy=_REMEDY.format(policy.name),
    )


def _fingerprint(model: Model, version: str, policy: Policy) -> str | None:
    """What the tokens of a model depend on; None where it is not the policy."""
    stated = _STATED.fullmatch(model.id)
    if stated:
        fits = stated["policy"] == policy.fingerprint and stated["engine"].endswith(f"-{version}")
        return stated["fingerprint"] if fits else None
    names = {PurePosixPath(name).name for name in (model.id, model.root) if name}
    return f"{policy.fingerprint}.as={model.id}.vllm-{version}" if policy.name in names else None


async def _ask_all(urls: Sequence[str], policy: Policy, length: int) -> dict[str, Identity | Fault]:
    async with ClientSession(timeout=TIMEOUT) as session:

        async def ask(url: str) -> Identity | Fault:
            try:
                return await identify(session, url, policy, length=length)
            except Fault as fault:
                return fault

        return dict(zip(urls, await asyncio.gather(*map(ask, urls)), strict=True))


async def _get(session: ClientSession, url: str, kind: type[_Said]) -> _Said:
    async with session.get(url) as response:
        text = await response.text(errors="replace")
        check_status(response.status, text, response.headers)
    try:
        return kind.model_validate_json(text or "{}")
    except ValidationError as error:
        raise Fault(f"{url} answered {text[:80]!r}") from error
