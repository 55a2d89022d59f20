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


class StepEngine(Protocol):
    """An engine that is told of requests and then asked, step by step, what came of them."""

    def add_request(self, request_id: str, prompt: dict[str, list[int]], params: Any) -> object: ...

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
    source, exhausted = iter(requests), False
    try:
        while pending or not exhausted:
            while not exhausted and len(pending) < most:
                request = next(source, END)
                if request is END:
                    exhausted = True
                elif request is None:
                    if not pending:
                        raise RuntimeError("no request is in hand, and none is given")
                    break
                elif len(request.prompt) >= length:
                    yield failed(
                        request, f"prompt has {len(request.prompt)} tokens, the model takes at most {length - 1}"
                    )
                else:
                    pending[request.key] = (request, time.monotonic())
                    try:
                        engine.add_request(request.key, {"prompt_token_ids": request.prompt.tolist()}, params(request))
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
        return failed(request, f"the engine ended it with {answer.finish_reason!r}")
    token_ids = np.asarray(answer.token_ids, dtype=np.int32)
    logprobs = np.asarray(
        [position[token].logprob for token, position in zip(answer.token_ids, answer.logprobs, strict=True)], np.float32
    )
    return Completion(
        request.key, token_ids, logprobs, answer.finish_reason, cached=output.num_cached_tokens, seconds=seconds
    )
