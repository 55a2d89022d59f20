"""An engine that answers by a function, for tests and for replaying: no model, the real protocol."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable

import numpy as np

from pipeline.generation.engine import Completion, Request


class ScriptedEngine:
    """Answers each request with the tokens `answer(request)` gives, all of log-probability `logprob`.

    answer: token ids, the end token included; longer than max_tokens is cut, as a model would be.
    """

    name = "scripted"

    def __init__(self, answer: Callable[[Request], list[int]], *, fingerprint: str = "scripted", logprob: float = -0.5):
        self._answer, self._fingerprint, self._logprob = answer, fingerprint, logprob
        self.seen: list[Request] = []

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def generate(self, requests: Iterable[Request | None]) -> Generator[Completion, None, None]:
        for request in requests:
            if request is None:
                continue  # what has been answered brings more
            self.seen.append(request)
            ids = self._answer(request)
            cut = len(ids) > request.sampling.max_tokens
            token_ids = np.asarray(ids[: request.sampling.max_tokens], dtype=np.int32)
            logprobs = np.full(len(token_ids), self._logprob, np.float32)
            yield Completion(request.key, token_ids, logprobs, "length" if cut else "stop", cached=0, seconds=0.0)
