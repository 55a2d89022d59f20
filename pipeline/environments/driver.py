"""Plays many episodes at once on one sampler: none waits for another's turn, nor for another's environment.

Steps of environments are taken in threads, so that the engine goes on meanwhile. What an episode gives does not depend
on what came first. Knows no environment, no rule and no file.
"""

from __future__ import annotations

import queue
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from pipeline.environments.wants import Act, Done, Playing, Together
from pipeline.generation.budget.spending import NO_CAPS, Caps, Spent
from pipeline.generation.engine import Request
from pipeline.generation.sampler import Sampler

OPEN = 512
"""Episodes that are open at once: twice what an engine decodes."""
THREADS = 16


class Played(Protocol):
    """What can be played."""

    def play(self) -> Playing: ...


@dataclass(slots=True, eq=False)
class _Table:
    """An episode under way, or a part of one that is played beside others.

    above: whose part it is; None: nobody's. place: among the parts there.
    found: what its own parts returned. waits: for how many of them.
    """

    episode: Any
    playing: Playing
    above: _Table | None = None
    place: int = 0
    found: list[Any] = field(default_factory=list)
    waits: int = 0


@dataclass(slots=True, eq=False)
class Driver:
    """Episodes on one sampler.

    on_request: told of every request and the episode it was made for.
    stopped:    why the run ended before all were played; empty where it did not.
    """

    sampler: Sampler
    on_request: Callable[[Any, Request], None] = lambda episode, request: None
    caps: Caps = NO_CAPS
    stopped: str = ""
    _threads: ThreadPoolExecutor = field(init=False)
    _ready: deque[tuple[_Table, Request]] = field(default_factory=deque)
    _asked: dict[str, list[_Table]] = field(default_factory=lambda: defaultdict(list))
    _acting: int = 0
    _acted: queue.SimpleQueue = field(default_factory=queue.SimpleQueue)
    _open: set[_Table] = field(default_factory=set)
    _all_begun: bool = False
    _done: deque[Any] = field(default_factory=deque)

    def run(self, episodes: Iterator[Played]) -> Iterator[Any]:
        """Play every episode; yield each when it has ended, in any order. They are begun as there is room for them.

        One that a cap cut short is not among them, and is closed; what it asked is in the ledger.
        """
        started, before = time.monotonic(), replace(self.sampler.spent)
        self._threads = ThreadPoolExecutor(THREADS, "environment")
        try:
            with closing(self.sampler.stream(self._requests(episodes, started, before))) as entries:
                for entry in entries:
                    for table in self._asked.pop(entry.completion.key):
                        self._go_on(table, entry)
                    yield from self._ended()
            yield from self._ended()
        finally:
            self._threads.shutdown(cancel_futures=True)  # nothing acts in what is closed
            for table in self._open:
                table.playing.close()

    def _ended(self) -> Iterator[Any]:
        while self._done:
            yield self._done.popleft()

    def _requests(self, episodes: Iterator[Played], started: float, before: Spent) -> Iterator[Request | None]:
        """What to ask next, whenever there is room for more."""
        while True:
            seconds = time.monotonic() - started
            self.stopped = self.caps.reached(seconds=seconds, before=before, now=self.sampler.spent)
            if self.stopped:
                return
            self._take_acted()
            while not self._all_begun and not self._ready and len(self._open) < OPEN:
                self._begin(next(episodes, None))
            if self._ready:
                table, request = self._ready.popleft()
                self._asked[request.key].append(table)
                if len(self._asked[request.key]) == 1:
                    yield request
            elif self._asked:
                yield None
            elif self._acting:
                self._resume(*self._acted.get())
            elif self._all_begun:
                return

    def _begin(self, episode: Played | None) -> None:
        if episode is None:
            self._all_begun = True
            return
        table = _Table(episode, episode.play())
        self._open.add(table)
        self._go_on(table, None)

    def _take_acted(self) -> None:
        while not self._acted.empty():
            self._resume(*self._acted.get())

    def _resume(self, table: _Table, future: Future) -> None:
        self._acting -= 1
        error = future.exception()
        said = None if error is None else f"{type(error).__name__}: {error}"
        self._go_on(table, Done(None if error else future.result(), said))

    def _go_on(self, table: _Table, answer: Any) -> None:
        """Send an episode what it waits for, and take what it wants next."""
        try:
            wanted = next(table.playing) if answer is None else table.playing.send(answer)
        except StopIteration as ended:
            self._end(table, ended.value)
            return
        if isinstance(wanted, Together):
            table.found, table.waits = [None] * len(wanted.parts), len(wanted.parts)
            for place, part in enumerate(wanted.parts):
                self._go_on(_Table(table.episode, part, table, place), None)
            return
        if isinstance(wanted, Act):
            self._acting += 1
            future = self._threads.submit(wanted.run)
            future.add_done_callback(lambda done: self._acted.put((table, done)))
            return
        request = self.sampler.request(wanted.prompt, wanted.sampling, sample=wanted.sample)
        self.on_request(table.episode, request)
        self._ready.append((table, request))

    def _end(self, table: _Table, value: Any) -> None:
        """Take what an episode or a part returned."""
        above = table.above
        if above is None:
            self._open.remove(table)
            self._done.append(table.episode)
            return
        above.found[table.place] = value
        above.waits -= 1
        if not above.waits:
            self._go_on(above, above.found)
