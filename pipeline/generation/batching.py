"""Drives an engine that works in steps: keeps it full, yields what ends, leaves nothing behind in it.

Knows no library: whatever adds, steps and aborts as vLLM's engine does can be driven.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from typing import Any, Protocol

import numpy as np

from pipeline.generation.engine import Completion, Request, failed
from schemas.words import FINISHES

IN_FLIGHT = 256
IN_HAND = IN_FLIGHT + IN_FLIGHT // 8
"""Requests that an engine is given at most: enough to fill what a step frees, few enough that what is asked next can be
chosen late."""
END = object()
"""What stands for the end of the requests."""


class Intake:
    """Requests as an engine has room for them.

    ended: there are no more.
    """

    def __init__(self, requests: Iterable[Request | None], *, length: int):
        """length: positions the engine has for prompt and answer."""
        self._source, self._length = iter(requests), length
        self.ended = False

    def take(self, *, in_hand: int) -> Request | Completion | None:
        """The next request, or the failure of one whose prompt is too long; None where none is known at the moment.

        Args:
            in_hand: requests whose answers may bring more.

        Raises:
            RuntimeError: none is known, and none is in hand.
        """
        request = None if self.ended else next(self._source, END)
        if request is END:
            self.ended = True
            return None
        if request is None:
            if not in_hand and not self.ended:
                raise RuntimeError("no request is in hand, and none is given")
            return None
        if len(request.prompt) >= self._length:
            return failed(
                request, f"prompt has {len(request.prompt)} tokens, the model takes at most {self._length - 1}"
            )
        return request


class StepEngine(Protocol):
    """An engine that is told of requests and then asked, step by step, what came of them."""

    def add_request(self, request_id: str, prompt: dict[str, Any], params: Any) -> object: ...

    def step(self) -> list[Any]: ...

    def abort_request(self, request_ids: list[str]) -> None: ...


def drive(
    engine: StepEngine,
    requests: Iterable[Request | None],
    *,
    length: int,
    params: Callable[[Request], Any],
    refusals: tuple[type[Exception], ...] = (ValueError,),
    most: int = IN_HAND,
) -> Generator[Completion, None, None]:
    """Yield each completion as it ends; a request that cannot be served is a completion with an error.

    Whatever ends the generator early, a failure or its being closed, the engine is rid of what it had in hand. An
    output nobody waits for is passed over.

    Args:
        length:   positions the engine has for prompt and answer; an answer that would go beyond ends with `length`.
        params:   how the engine is told to sample a request.
        refusals: what the engine raises at a request it does not take.
        most:     requests the engine has in hand.
    """
    pending: dict[str, tuple[Request, float]] = {}
    intake = Intake(requests, length=length)
    try:
        while pending or not intake.ended:
            while len(pending) < most and (request := intake.take(in_hand=len(pending))) is not None:
                if isinstance(request, Completion):
                    yield request
                    continue
                pending[request.key] = (request, time.monotonic())
                try:
                    prompt = {"type": "token", "prompt_token_ids": request.prompt.tolist()}
                    engine.add_request(request.key, prompt, params(request))
                except refusals as error:
                    del pending[request.key]
                    yield failed(request, f"the engine refused it: {reason(error)}")
            for output in engine.step() if pending else ():
                if output.finished and output.request_id in pending:
                    request, sent = pending.pop(output.request_id)
                    yield _completion(request, output, time.monotonic() - sent)
    finally:
        if pending:
            engine.abort_request(list(pending))


def reason(error: Exception) -> str:
    """The line of an error that says most, without a validator's trimmings."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "validation error" not in line and "further information" not in line]
    return (told or lines or [type(error).__name__])[0].split(" [type=")[0].removeprefix("Value error, ")[:300]


def _completion(request: Request, output: Any, seconds: float) -> Completion:
    answer = output.outputs[0]
    if answer.finish_reason not in FINISHES:
        return failed(request, f"the engine ended it with {answer.finish_reason!r}", may_pass=True)
    token_ids = np.asarray(answer.token_ids, dtype=np.int32)
    logprobs = np.asarray(answer.logprobs.logprobs, dtype=np.float32)
    if len(logprobs) != len(token_ids):
        return failed(request, f"the engine told {len(logprobs)} log-probabilities of {len(token_ids)} tokens")
    return Completion(
        request.key, token_ids, logprobs, answer.finish_reason, cached=output.num_cached_tokens, seconds=seconds
    )
