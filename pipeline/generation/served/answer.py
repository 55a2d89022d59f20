"""The protocol: what a request is as JSON, and what makes an answer whole. Knows no network.

Answers are streamed, since a server that still computes must be told from one that hangs. They come as events of a few
tokens each: one a token would take a third of the rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from pipeline.generation.engine import Completion, Request
from pipeline.generation.served.faults import Fault, check_status
from schemas.words import FINISHES

EVENT_TOKENS = 16
_END = b"[DONE]"


class _Logprobs(BaseModel):
    token_logprobs: list[Annotated[float, Field(strict=True, allow_inf_nan=False)]]


class _Choice(BaseModel):
    token_ids: list[Annotated[int, Field(strict=True, ge=0, lt=2**31)]]
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None
    prompt_token_ids: list[int] | None = None


class _Details(BaseModel):
    cached_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _Details | None = None


class _Error(BaseModel):
    message: str
    code: int = 500


class _Event(BaseModel):
    choices: list[_Choice] = Field(default=[], max_length=1)
    usage: _Usage | None = None
    error: _Error | None = None


def body_of(request: Request, *, model: str, end_ids: Sequence[int], length: int) -> dict[str, Any]:
    """The body of a POST to /v1/completions.

    What a server would take from its model's generation_config.json is stated, so that all draw alike; of end tokens
    it has the policy's alone.

    Args:
        model:   the policy's name on the server.
        end_ids: tokens that end an answer.
        length:  positions for prompt and answer; an answer that would go beyond ends with `length`.
    """
    return {
        "model": model,
        "prompt": request.prompt.tolist(),
        "max_tokens": min(request.sampling.max_tokens, length - len(request.prompt)),
        "temperature": request.sampling.temperature,
        "top_p": request.sampling.top_p,
        "seed": request.seed,
        "stop_token_ids": list(end_ids),
        "ignore_eos": True,
        "n": 1,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "logprobs": 0,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "skip_special_tokens": False,
        "stream": True,
        "stream_options": {"include_usage": True},
        "stream_interval": EVENT_TOKENS,
        **({"structured_outputs": {"json": request.sampling.schema}} if request.sampling.schema else {}),
    }


class Answer:
    """Takes the bytes of a stream of events as they come and checks what they add up to.

    Args:
        body: what was asked.
    """

    def __init__(self, body: dict[str, Any]):
        self._body = body
        self._rest = b""
        self._ended = False
        self._token_ids: list[int] = []
        self._logprobs: list[float] = []
        self._prompt: list[int] | None = None
        self._finish: str | None = None
        self._usage: _Usage | None = None

    def feed(self, data: bytes) -> None:
        """Take some bytes.

        Raises:
            Fault: an event is none, says that the server failed, or has more tokens than were asked for.
            Refused: an event says that the request is at fault.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._take(line[5:].strip())

    def completion(self, request: Request, *, seconds: float) -> Completion:
        """The answer, once the stream is over.

        Raises:
            Fault: it broke off, or its numbers disagree with each other or with what was asked.
        """
        if wrong := self._wrong():
            raise Fault(wrong)
        details = self._usage and self._usage.prompt_tokens_details
        return Completion(
            request.key,
            np.asarray(self._token_ids, np.int32),
            np.asarray(self._logprobs, np.float32),
            self._finish,
            cached=details.cached_tokens if details else None,
            seconds=seconds,
        )

    def _take(self, text: bytes) -> None:
        if text == _END:
            self._ended = True
            return
        try:
            event = _Event.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise Fault(f"an event is not as it should be: {place} {first['msg']}".replace("  ", " ")[:300]) from error
        if event.error:
            check_status(event.error.code, event.error.message, {})
        for choice in event.choices:
            self._token_ids += choice.token_ids
            self._logprobs += choice.logprobs.token_logprobs if choice.logprobs else []
            self._finish = choice.finish_reason or self._finish
            self._prompt = choice.prompt_token_ids or self._prompt
        if len(self._token_ids) > self._body["max_tokens"]:
            raise Fault(f"more than the {self._body['max_tokens']} tokens that were asked for")
        self._usage = event.usage or self._usage

    def _wrong(self) -> str | None:
        """What is wrong with the answer as a whole."""
        body, count, usage = self._body, len(self._token_ids), self._usage
        if not (self._ended and usage and self._finish):
            return "the answer broke off"
        if self._finish not in FINISHES:
            return f"the server ended it with {self._finish!r}"
        if not count == len(self._logprobs) == usage.completion_tokens:
            return f"{count} tokens, {len(self._logprobs)} log-probabilities, {usage.completion_tokens} by its count"
        if self._prompt not in (None, body["prompt"]) or usage.prompt_tokens != len(body["prompt"]):
            return "the server answered another prompt"
        if self._finish == "length" and count != body["max_tokens"]:
            return f"cut at {count} tokens where {body['max_tokens']} were asked for"
        if self._finish == "stop" and (not count or self._token_ids[-1] not in body["stop_token_ids"]):
            return "the answer stopped without an end token"
        return None
