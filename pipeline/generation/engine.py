"""What an engine is: tokens in, tokens out. Knows nothing of tasks, trees or files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from pipeline.errors import BadConfig


def check_sampling(temperature: float, top_p: float) -> None:
    """Refuse what nothing can be drawn by.

    Raises:
        BadConfig: names the one of them.
    """
    if not temperature >= 0:
        raise BadConfig(f"temperature is {temperature}", remedy="give at least 0")
    if not 0 < top_p <= 1:
        raise BadConfig(f"top_p is {top_p}", remedy="give more than 0 and at most 1")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. max_tokens counts new tokens, the end token included.

    schema: JSON schema, as text, that the answer is held to while it is drawn; empty: it is free.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 128
    schema: str = ""

    def __post_init__(self):
        check_sampling(self.temperature, self.top_p)
        if self.max_tokens < 1:
            raise BadConfig(f"max_tokens is {self.max_tokens}", remedy="give at least 1")

    def as_json(self) -> str:
        return _as_json(self)


@lru_cache(maxsize=1024)
def _as_json(sampling: Sampling) -> str:
    said = asdict(sampling)
    if not sampling.schema:
        del said["schema"]  # so that what was asked freely keeps its key
    return json.dumps(said, sort_keys=True)


@dataclass(frozen=True, slots=True)
class Request:
    """One answer to one prompt.

    key:    content key; the same content is never paid twice.
    prompt: `[P]` int32 token ids.
    sample: index among requests of otherwise equal content.
    """

    key: str
    prompt: np.ndarray
    sampling: Sampling
    sample: int

    @property
    def seed(self) -> int:
        """Seed of this request alone, from its content."""
        return int(self.key[:8], 16) & 0x7FFFFFFF


@dataclass(frozen=True, slots=True)
class Completion:
    """What came back.

    token_ids: `[T]` int32, the end token included.
    logprobs:  `[T]` float32, natural, under the policy, untempered.
    finish:    stop or length; None where it failed.
    cached:    prompt tokens found in the prefix cache; None where the engine does not tell.
    seconds:   from sending to its end; None where not told.
    error:     why it failed; None where it did not.
    may_pass:  it failed by what another time may be otherwise, as a server that was away. No ledger keeps it.
    """

    key: str
    token_ids: np.ndarray
    logprobs: np.ndarray
    finish: str | None
    cached: int | None = None
    seconds: float | None = None
    error: str | None = None
    may_pass: bool = False


def failed(request: Request, error: str, *, may_pass: bool = False) -> Completion:
    """What stands for an answer that never came: no tokens, and why."""
    nothing = np.empty(0, np.int32), np.empty(0, np.float32)
    return Completion(request.key, *nothing, None, error=error, may_pass=may_pass)


class Engine(Protocol):
    """Draws tokens from one policy."""

    name: str

    @property
    def fingerprint(self) -> str:
        """Changes whenever the same request may give other tokens: weights, dtype, version."""
        ...

    def generate(self, requests: Iterable[Request | None]) -> Generator[Completion, None, None]:
        """Yield each completion as it ends, in any order; `key` tells which. Closed early, it gives up the rest.

        Args:
            requests: taken as there is room for them. None: none is known at the moment; what comes of those in hand
                will bring more, so the engine asks again after its next completion. It is an error to say None while
                nothing is in hand.
        """
        ...


def make_request(prompt: np.ndarray, sampling: Sampling, *, sample: int, fingerprint: str) -> Request:
    """A request under its content key: prefix tokens, sampling, sample index, policy."""
    prompt = np.ascontiguousarray(prompt, dtype=np.int32)
    digest = hashlib.blake2b(digest_size=16)
    digest.update(prompt.tobytes())
    digest.update(f"|{sampling.as_json()}|{sample}|{fingerprint}".encode())
    return Request(digest.hexdigest(), prompt, sampling, sample)
