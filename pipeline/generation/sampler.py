"""Asks an engine for what the ledger does not have yet, and records each answer as it comes.

The engine is opened on the first request that must be paid; where the ledger has them all, never.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from pipeline.generation.batching import END
from pipeline.generation.budget.spending import NO_PRICES, Prices, Spent
from pipeline.generation.engine import Completion, Engine, Request, Sampling, make_request
from pipeline.store.ledger import Entry, Ledger

LOOKED_UP = 256
"""Requests looked up in the ledger at a time, while it has some of them. Else they are looked up one by one, so that
whoever gives them can choose as late as may be which is next."""
LOOKED_UP_FIRST = 16
"""Before it is known whether the ledger has some of them."""
FOUND_MOST = 4096
"""Entries that wait to be seen, when more requests could be looked up."""


@dataclass(slots=True)
class Sampler:
    """One policy behind the ledger.

    open_engine: called when the first request must be paid.
    fingerprint: the engine's, known beforehand.
    asked_by:    suite/round/stage that pays.
    on_answer:   called after every answer with the counts so far.
    prices:      of what is paid.
    missed:      requests that failed by what may pass: asked another time they may be answered.
    """

    ledger: Ledger
    engine_name: str
    fingerprint: str
    open_engine: Callable[[], Engine]
    asked_by: str = ""
    on_answer: Callable[[Spent], None] = lambda spent: None
    spent: Spent = field(default_factory=Spent)
    prices: Prices = NO_PRICES
    missed: set[str] = field(default_factory=set)

    def request(self, prompt: np.ndarray, sampling: Sampling, *, sample: int) -> Request:
        """A request of this policy."""
        return make_request(prompt, sampling, sample=sample, fingerprint=self.fingerprint)

    @property
    def cost(self) -> float | None:
        """Of what is paid so far; None where nothing has a price."""
        spent = self.spent
        return self.prices.cost(prompt=spent.prompt, decoded=spent.decoded, seconds=spent.seconds)

    def run(self, requests: Iterable[Request]) -> dict[str, Entry]:
        """Every request's entry by key; equal requests are asked once. Failures are entries with an error."""
        asked = {request.key: request for request in requests}
        return {entry.completion.key: entry for entry in self.stream(iter(asked.values()))}

    def stream(self, requests: Iterator[Request | None]) -> Generator[Entry, None, None]:
        """Yield the entry of each request as it comes: those of the ledger at once, the others once they are paid.

        Args:
            requests: no two alike. None: none is known at the moment; the next entry may bring more.

        Raises:
            RuntimeError: none is known, and none is under way that could bring more.
        """
        looked = _Looked(self.ledger, requests)
        while True:
            missing = looked.next_missing()
            if missing is None and not looked.found:
                if looked.ended:
                    return
                raise RuntimeError("no request is under way, and none is given")
            yield from self._found(looked)
            if missing is not None:
                yield from self._pay(looked, missing)

    def _found(self, looked: _Looked) -> Iterator[Entry]:
        while looked.found:
            self.spent.reused += 1
            self.on_answer(self.spent)
            yield looked.found.popleft()

    def _pay(self, looked: _Looked, first: Request) -> Iterator[Entry]:
        """Ask the engine, and record each completion before anything else sees it.

        Whatever goes wrong here, the engine is told at once to give up the rest.
        """
        in_hand: dict[str, Request] = {}

        def missing() -> Iterator[Request | None]:
            request: Request | None = first
            while True:
                if request is not None:
                    in_hand[request.key] = request
                yield request
                if looked.found and not in_hand:
                    return  # what was found may bring more
                request = looked.next_missing()
                if request is None and not in_hand:
                    return

        engine, told = self.open_engine(), time.monotonic()
        with closing(engine.generate(missing())) as completions:
            for completion in completions:
                request, before = in_hand.pop(completion.key), told
                told = time.monotonic()
                self._record(request, completion, seconds=told - before)
                yield self._entry(request, completion, attempts=1 + looked.tries.pop(request.key, 0))
                yield from self._found(looked)

    def _record(self, request: Request, completion: Completion, *, seconds: float) -> None:
        self.ledger.put(
            [(request, completion)],
            policy=self.fingerprint,
            engine=self.engine_name,
            asked_by=self.asked_by,
            seconds=seconds,
        )
        self.spent.seconds += seconds
        self.spent.paid += 1
        self.spent.decoded += len(completion.token_ids)
        self.spent.prompt += len(request.prompt)
        self.spent.cached += completion.cached or 0
        self.spent.failed += completion.error is not None
        if completion.may_pass:
            self.missed.add(completion.key)
        self.on_answer(self.spent)

    def _entry(self, request: Request, completion: Completion, *, attempts: int) -> Entry:
        """What the ledger now has of a request."""
        return Entry(
            completion,
            request.prompt,
            self.fingerprint,
            self.engine_name,
            request.sample,
            request.sampling.as_json(),
            attempts,
            self.asked_by,
        )


class _Looked:
    """Requests as they are looked up: those of the ledger wait in `found`, the others are given one by one.

    tries: how often those were tried that failed so far.
    """

    def __init__(self, ledger: Ledger, requests: Iterator[Request | None]):
        self._ledger, self._requests = ledger, requests
        self._missing: deque[Request] = deque()
        self._at_once = LOOKED_UP_FIRST
        self.tries: dict[str, int] = {}
        self.found: deque[Entry] = deque()
        self.ended = False

    def next_missing(self) -> Request | None:
        """A request that must be paid; None where none is known, or what was found is to be seen first."""
        while not self._missing and not self.ended:
            some = self._some()
            if not some:
                break
            known = self._ledger.get([request.key for request in some])
            self._at_once = LOOKED_UP if known else 1
            for request in some:
                entry = known.get(request.key)
                if entry is None or entry.completion.error:
                    self._missing.append(request)
                    if entry is not None:
                        self.tries[request.key] = entry.attempts
                else:
                    self.found.append(entry)
            if len(self.found) >= FOUND_MOST:
                break
        return self._missing.popleft() if self._missing else None

    def _some(self) -> list[Request]:
        """The next requests, as many as are known and may be looked up at once."""
        some: list[Request] = []
        while len(some) < self._at_once:
            request = next(self._requests, END)
            if request is END:
                self.ended = True
                break
            if request is None:
                break
            some.append(request)
        return some
