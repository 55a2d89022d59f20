"""An engine without a model, in simulated time: counts what a strategy, or an order of requests, costs.

A slot decodes a token a tick, however many others do. What a request comes to is drawn from its key alone, so that two
orders of the same requests differ in nothing else. Knows no text, no task and no tree.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import asdict, dataclass
from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np

from pipeline.bench.prose import VOCABULARY, draw_logprobs
from pipeline.errors import BadConfig
from pipeline.generation.batching import END
from pipeline.generation.block_cache import BlockCache, Lease
from pipeline.generation.engine import Completion, Request, failed

END_ID = 0
"""The token that ends an answer; no other is drawn so."""
Answer = Callable[[Request, np.ndarray], Sequence[int] | np.ndarray]


@dataclass(frozen=True, slots=True)
class Answers:
    """How long answers are: log-normal, before they are cut at the limit of their request.

    mean_tokens: of the distribution, the end token included, stragglers not.
    spread:      standard deviation of the logarithm.
    stragglers:  share of the requests whose answer is `stretch` times as long.
    seed:        of all draws.

    Raises:
        BadConfig: no such answers can be.
    """

    mean_tokens: float = 250.0
    spread: float = 0.7
    stragglers: float = 0.0
    stretch: float = 8.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.mean_tokens >= 1 and self.spread >= 0 and 0 <= self.stragglers <= 1 and self.stretch >= 1):
            raise BadConfig(
                f"{self} cannot be", remedy="mean_tokens and stretch are at least 1, spread 0, stragglers from 0 to 1"
            )
        if self.seed < 0:
            raise BadConfig(f"seed {self.seed} is negative", remedy="give 0 or more")


@dataclass(frozen=True, slots=True)
class Machine:
    """What answers are decoded on, and what lies between them.

    slots:        sequences that run at once.
    prefill_rate: prompt tokens that a slot computes in a tick, before it decodes.
    cache_blocks: of the prefix cache, which holds what runs too. None: as many as it takes.
    most:         requests waiting and running, up to which it asks for more. None: twice the slots.
    tool_ticks:   mean time from the end of an answer to its delivery, log-normal; the slot is free by then.
    tool_spread:  standard deviation of its logarithm.

    Raises:
        BadConfig: no such machine can be.
    """

    slots: int = 64
    prefill_rate: float = math.inf
    cache_blocks: int | None = None
    most: int | None = None
    tool_ticks: float = 0.0
    tool_spread: float = 1.0

    def __post_init__(self) -> None:
        counts = (self.slots, *(count for count in (self.cache_blocks, self.most) if count is not None))
        if not (min(counts) >= 1 and self.prefill_rate > 0 and self.tool_ticks >= 0 and self.tool_spread >= 0):
            raise BadConfig(
                f"{self} cannot be",
                remedy="slots, cache_blocks and most are at least 1, prefill_rate above 0, the others at least 0",
            )


class Served(NamedTuple):
    """A request that had a slot.

    given, started, ended: ticks at which it came, took its slot and left it.
    delivered: tick at which its answer was known; None: it was given up.
    prompt:    its tokens; cached: those of them found in the prefix cache.
    decoded:   tokens, also of an answer given up.
    """

    key: str
    given: float
    started: float
    ended: float
    delivered: float | None
    prompt: int
    cached: int
    decoded: int


class Counters(NamedTuple):
    """What has been done so far, by vLLM's names.

    num_requests_running, num_requests_waiting: means over time.
    makespan:   ticks since the engine was made.
    idle_share: of all slots over that time, 1 less what was filled; a slot is filled by prefill too.
    """

    prompt_tokens: int
    generation_tokens: int
    prefix_cache_queries: int
    prefix_cache_hits: int
    num_requests_running: float
    num_requests_waiting: float
    makespan: float
    idle_share: float


@dataclass(slots=True, eq=False)
class _Job:
    """A request and what it will come to. ends: tick at which it leaves its slot; lease: None before and after."""

    request: Request
    number: int
    given: float
    token_ids: np.ndarray
    logprobs: np.ndarray
    delay: float
    lease: Lease | None = None
    started: float = 0.0
    ends: float = 0.0
    cached: int = 0


class SimulatedEngine:
    """Serves requests first come first served. Its clock, its cache and its counts go on from call to call.

    The prompt of a request counts as computed for others from when it takes its slot on, also where that takes ticks.

    answer:      `(request, token_ids)` gives what is said instead of the tokens drawn: at least one token, the end
        token included; cut at the request's limit. It should depend on nothing else.
    fingerprint: begins the engine's; another one for every `answer`.
    """

    name = "simulated"

    def __init__(
        self,
        answers: Answers = Answers(),
        machine: Machine = Machine(),
        *,
        answer: Answer | None = None,
        fingerprint: str = "simulated",
    ):
        self._answers, self._machine, self._answer = answers, machine, answer
        digest = hashlib.blake2b(json.dumps(asdict(answers)).encode(), digest_size=8).hexdigest()
        self._fingerprint = f"{fingerprint}.{digest}"
        self._cache = BlockCache(machine.cache_blocks)
        self._most = machine.most or 2 * machine.slots
        self._running: dict[int, _Job] = {}
        self._numbers = 0
        self.now = 0.0
        self.served: list[Served] = []

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def counters(self) -> Counters:
        """What the requests came to that have left their slots; numbers are NaN before any time has passed."""
        time, busy = self.now or math.nan, sum(one.ended - one.started for one in self.served)
        queries = sum(one.prompt for one in self.served)
        return Counters(
            prompt_tokens=sum(one.prompt for one in self.served if one.decoded),
            generation_tokens=sum(one.decoded for one in self.served),
            prefix_cache_queries=queries,
            prefix_cache_hits=sum(one.cached for one in self.served),
            num_requests_running=busy / time,
            num_requests_waiting=sum(one.started - one.given for one in self.served) / time,
            makespan=self.now,
            idle_share=1 - busy / (time * self._machine.slots),
        )

    def generate(self, requests: Iterable[Request | None]) -> Generator[Completion, None, None]:
        """Yield completions in the order of their delivery; their `seconds` are ticks, waiting and tools included.

        What is given after a completion comes at the tick of its delivery. A request that the cache could never hold
        is a completion with an error.
        """
        source, exhausted, asking = iter(requests), False, True
        waiting: deque[_Job] = deque()
        events: list[tuple[float, int, _Job]] = []
        try:
            while True:
                while asking and len(waiting) + len(self._running) < self._most:
                    request = next(source, END)
                    if request is END:
                        exhausted, asking = True, False
                    elif request is None:
                        if not (waiting or events):
                            raise RuntimeError("no request is in hand, and none is given")
                        asking = False
                    elif refusal := self._refusal(job := self._draw(request)):
                        yield failed(request, refusal)
                    else:
                        waiting.append(job)
                while waiting and self._start(waiting[0]):
                    job = waiting.popleft()
                    heappush(events, (job.ends, job.number, job))
                if not events:
                    return
                self.now, _, job = heappop(events)
                if job.lease is not None:
                    self._leave(job, delivered=self.now + job.delay)
                    if job.delay:
                        heappush(events, (self.now + job.delay, job.number, job))
                        continue
                asking = not exhausted
                yield self._completion(job)
        finally:
            for job in list(self._running.values()):
                self._leave(job, delivered=None)

    def _draw(self, request: Request) -> _Job:
        """What a request comes to, from its key."""
        answers, machine = self._answers, self._machine
        random = np.random.default_rng([answers.seed, int(request.key, 16)])
        size, delay = random.standard_normal(2).tolist()
        tokens = answers.mean_tokens * math.exp(answers.spread * (size - answers.spread / 2))
        if random.random() < answers.stragglers:
            tokens *= answers.stretch
        length, most = max(1, round(tokens)), request.sampling.max_tokens
        token_ids = random.integers(END_ID + 1, VOCABULARY, min(length, most), dtype=np.int32)
        if length <= most:
            token_ids[-1] = END_ID
        if self._answer is not None:
            token_ids = np.asarray(self._answer(request, token_ids)[:most], dtype=np.int32)
        delay = machine.tool_ticks * math.exp(machine.tool_spread * (delay - machine.tool_spread / 2))
        self._numbers += 1
        return _Job(request, self._numbers, self.now, token_ids, draw_logprobs(random, len(token_ids)), delay)

    def _refusal(self, job: _Job) -> str | None:
        """Why a request can never start, if so."""
        blocks, most = self._cache.blocks_for(len(job.request.prompt), len(job.token_ids)), self._machine.cache_blocks
        return f"it takes {blocks} blocks, the cache has {most}" if most is not None and blocks > most else None

    def _start(self, job: _Job) -> bool:
        """Give a request a slot and its blocks, if there are."""
        if len(self._running) == self._machine.slots:
            return False
        prompt = job.request.prompt
        job.lease = self._cache.take(prompt, decoded=len(job.token_ids))
        if job.lease is None:
            return False
        job.cached, job.started = job.lease.cached, self.now
        job.ends = self.now + (len(prompt) - job.cached) / self._machine.prefill_rate + len(job.token_ids)
        self._running[job.number] = job
        return True

    def _leave(self, job: _Job, *, delivered: float | None) -> None:
        """Free the slot of a request, with what it has decoded by now."""
        prompt, decoded = job.request.prompt, max(0, len(job.token_ids) - math.ceil(job.ends - self.now))
        self._cache.give_back(job.lease, np.concatenate((prompt, job.token_ids[: max(0, decoded - 1)])))
        del self._running[job.number]
        job.lease = None
        self.served.append(
            Served(job.request.key, job.given, job.started, self.now, delivered, len(prompt), job.cached, decoded)
        )

    def _completion(self, job: _Job) -> Completion:
        finish = "stop" if job.token_ids[-1] == END_ID else "length"
        ticks = self.now - job.given
        return Completion(job.request.key, job.token_ids, job.logprobs, finish, cached=job.cached, seconds=ticks)
