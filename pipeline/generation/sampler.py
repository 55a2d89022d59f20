"""Asks an engine for what the ledger does not have yet, and records each answer as it comes.

The engine is opened on the first request that must be paid; where the ledger has them all, never.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from pipeline.generation.engine import Completion, Engine, Request, Sampling, make_request
from pipeline.store.ledger import Entry, Ledger


@dataclass(slots=True)
class Spent:
    """What a sampler has asked for so far; tokens are those decoded now, not those found again."""

    reused: int = 0
    paid: int = 0
    decoded: int = 0
    cached: int = 0
    failed: int = 0


@dataclass(slots=True)
class Sampler:
    """One policy behind the ledger.

    open_engine: called when the first request must be paid.
    fingerprint: the engine's, known beforehand.
    asked_by:    suite/round/stage that pays.
    on_answer:   called after every answer with the counts so far.
    """

    ledger: Ledger
    engine_name: str
    fingerprint: str
    open_engine: Callable[[], Engine]
    asked_by: str = ""
    on_answer: Callable[[Spent], None] = lambda spent: None
    spent: Spent = field(default_factory=Spent)

    def request(self, prompt: np.ndarray, sampling: Sampling, *, sample: int) -> Request:
        """A request of this policy."""
        return make_request(prompt, sampling, sample=sample, fingerprint=self.fingerprint)

    def run(self, requests: Iterable[Request]) -> dict[str, Entry]:
        """Every request's entry by key; equal requests are asked once. Failures are entries with an error."""
        asked = {request.key: request for request in requests}
        found = self.ledger.get(list(asked))
        missing = [request for key, request in asked.items() if key not in found or found[key].completion.error]
        self.spent.reused += len(asked) - len(missing)
        self.on_answer(self.spent)
        if missing:
            self._pay(asked, self.open_engine().generate(missing))
            found |= self.ledger.get([request.key for request in missing])
        return found

    def _pay(self, asked: dict[str, Request], completions: Generator[Completion, None, None]) -> None:
        """Record each completion as it comes, before anything else sees it.

        Whatever goes wrong here, the engine is told at once to give up the rest.
        """
        with closing(completions):
            for completion in completions:
                self.ledger.put(
                    [(asked[completion.key], completion)],
                    policy=self.fingerprint,
                    engine=self.engine_name,
                    asked_by=self.asked_by,
                )
                self.spent.paid += 1
                self.spent.decoded += len(completion.token_ids)
                self.spent.cached += completion.cached or 0
                self.spent.failed += completion.error is not None
                self.on_answer(self.spent)
