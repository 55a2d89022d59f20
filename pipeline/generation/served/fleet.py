"""Which server takes a request: its own while that is well and has room. Tries again, elsewhere, what went wrong."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import ClientSession, ClientTimeout, TCPConnector

from pipeline.errors import BadModel
from pipeline.generation.engine import Completion, Request, failed
from pipeline.generation.policies import Policy
from pipeline.generation.served.asking import Server, ask
from pipeline.generation.served.faults import Fault, Lost, Refused
from pipeline.generation.served.identity import TIMEOUT, identify
from pipeline.generation.served.limits import Limits
from pipeline.generation.served.listing import Listing
from pipeline.generation.served.pinning import by_preference

UNEVEN = 1.25
"""A server takes at most this times the mean, so that a task with many requests does not leave others idle."""
FEW = 16
"""Requests a server takes in any case: so few are better off with the prompt in its cache than spread."""
KEPT_ALIVE = 4.0
"""Seconds an idle connection is kept; vLLM closes it after 5, and a request sent just then would be lost."""
_log = logging.getLogger(__name__)


@dataclass
class Fleet:
    """The servers of a run. An async context manager; lives on one loop.

    fingerprint: what the tokens depend on. A server that has another is kept out.
    length:      positions for prompt and answer.
    """

    listing: Listing
    policy: Policy
    fingerprint: str
    length: int
    limits: Limits
    _servers: dict[str, Server] = field(default_factory=dict)
    _watching: dict[str, asyncio.Task] = field(default_factory=dict)
    _waiting: deque[asyncio.Future] = field(default_factory=deque)
    _opening: set[str] = field(default_factory=set)
    _none_since: float | None = None

    async def __aenter__(self) -> Fleet:
        self._stack = AsyncExitStack()
        timeout = ClientTimeout(total=None, sock_connect=TIMEOUT.sock_connect)
        connector = TCPConnector(limit=0, keepalive_timeout=KEPT_ALIVE)
        self._session = await self._stack.enter_async_context(ClientSession(connector=connector, timeout=timeout))
        self._tasks = await self._stack.enter_async_context(asyncio.TaskGroup())
        self._tasks.create_task(self._look())
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.__aexit__(*error)

    @property
    def room(self) -> int:
        """Requests the fleet has use for at the moment. May be read from any thread."""
        return self.limits.in_flight * max(1, sum(server.ready for server in list(self._servers.values())))

    async def answer(self, request: Request, pin: bytes) -> Completion:
        """The answer to a request; a completion with an error where there is none."""
        tried: list[Server] = []
        for wait in self.limits.waits():
            try:
                return await self._attempt(request, pin, tried)
            except Refused as refused:
                return failed(request, f"the server refused it: {refused}")
            except Lost as lost:
                return failed(request, str(lost), may_pass=True)
            except Fault as fault:
                if len(tried) == self.limits.attempts:
                    said = f"given up after {len(tried)} tries, the last at {tried[-1].url}: {fault}"
                    return failed(request, said, may_pass=True)
            await asyncio.sleep(wait)

    async def _attempt(self, request: Request, pin: bytes, tried: list[Server]) -> Completion:
        async with self._place(pin, avoid=tried[-1] if tried else None) as server:
            tried.append(server)
            try:
                return await ask(
                    self._session,
                    server,
                    request,
                    end_ids=self.policy.end_ids,
                    length=self.length,
                    stall=self.limits.stall,
                )
            except Fault as fault:
                if fault.rest is not None and server.ready:
                    _log.warning("%s is left alone: %s", server.url, fault)
                    server.fall(fault)
                raise

    @asynccontextmanager
    async def _place(self, pin: bytes, *, avoid: Server | None) -> AsyncIterator[Server]:
        """A server's place for one request; waits for one to be free.

        Raises:
            Lost: no server has been there for too long.
        """
        while (server := self._choose(pin, avoid)) is None:
            if self._is_lost():
                troubles = "; ".join(f"{one.url}: {one.trouble}" for one in self._servers.values())
                raise Lost(f"no server for {self.limits.patience:g} s: {troubles or 'none is listed'}")
            place = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            await place
        server.in_flight += 1
        try:
            yield server
        finally:
            server.in_flight -= 1
            self._wake(1)

    def _choose(self, pin: bytes, avoid: Server | None) -> Server | None:
        """The first server with room, in the order of the pin's preference; None while there is none.

        Source: consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2018), over the order of
            rendezvous hashing.
        """
        if self._opening:
            return None
        ready = {url: server for url, server in self._servers.items() if server.ready}
        if len(ready) > 1 and avoid is not None:
            ready.pop(avoid.url, None)
        if not ready:
            return None
        mean = (1 + sum(server.in_flight for server in ready.values())) / len(ready)
        most = max(FEW, math.ceil(UNEVEN * min(mean, self.limits.in_flight)))
        for url in by_preference(ready, pin) if len(ready) > 1 else ready:
            if ready[url].in_flight < most:
                return ready[url]
        return None

    def _wake(self, count: int) -> None:
        """Let requests that wait for a place look again, the oldest first."""
        while self._waiting and count:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                count -= 1

    def _is_lost(self) -> bool:
        return self._none_since is not None and time.monotonic() - self._none_since > self.limits.patience

    async def _look(self) -> None:
        """Follow the list of servers. One that left it ends what it has in flight and gets nothing more.

        A run begins when every server has said how it is, or has had the time between two looks to say so: else the
        first requests of all tasks would go to the quickest.
        """
        self._opening = set(self.listing.urls())
        while True:
            listed = self.listing.urls()
            for url in [url for url in self._servers if url not in listed]:
                _log.warning("%s left the list of servers", url)
                del self._servers[url]
                self._watching.pop(url).cancel()
            for url in listed:
                if url not in self._servers:
                    self._servers[url] = Server(url)
                    self._watching[url] = self._tasks.create_task(self._watch(self._servers[url]))
            self._changed()
            await asyncio.sleep(self.limits.look)
            self._opening.clear()

    async def _watch(self, server: Server) -> None:
        """Ask a server how it is until it is well, and again whenever something went wrong."""
        while True:
            await asyncio.sleep(server.rest)
            for wait in self.limits.waits():
                try:
                    server.rise(await self._identify(server))
                    break
                except (Fault, BadModel) as error:
                    if str(error) != server.trouble:
                        _log.warning("%s is not used: %s", server.url, error)
                    server.trouble = str(error)
                self._heard_of(server)
                await asyncio.sleep(wait)
            self._heard_of(server)
            await server.fell.wait()
            self._changed()

    async def _identify(self, server: Server) -> str:
        """The policy's name on the server.

        Raises:
            Fault: it does not answer.
            BadModel: it is of no use to this run.
        """
        found = await identify(self._session, server.url, self.policy, length=self.length)
        if found.fingerprint != self.fingerprint:
            raise BadModel(
                f"{server.url} would give other tokens: it is {found.fingerprint}, the run asks {self.fingerprint}",
                remedy="use servers of one dtype and one version of vLLM at a time",
            )
        return found.model

    def _heard_of(self, server: Server) -> None:
        self._opening.discard(server.url)
        self._changed()

    def _changed(self) -> None:
        """Note since when no server has been there; let every request that waits look again."""
        if any(server.ready for server in self._servers.values()):
            self._none_since = None
        elif self._none_since is None:
            self._none_since = time.monotonic()
        self._wake(len(self._waiting))
