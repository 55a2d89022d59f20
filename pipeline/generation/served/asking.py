"""One request to one server: sends it and listens until the answer is whole."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from aiohttp import ClientError, ClientResponse, ClientSession

from pipeline.generation.engine import Completion, Request
from pipeline.generation.served.answer import Answer, body_of
from pipeline.generation.served.faults import Fault, check_status

PASSED_OVER = 10
"""Stalls after which an answer is given up although its server goes on answering others."""


@dataclass(slots=True, eq=False)
class Server:
    """A server and how it is.

    model:     the policy's name there.
    ready:     it serves the policy and nothing has gone wrong since it was asked.
    in_flight: requests it has.
    heard:     monotonic time of the last byte of any answer.
    trouble:   why it is not ready.
    rest:      seconds to leave it alone before it is asked how it is.
    fell:      set while it is not ready.
    """

    url: str
    model: str = ""
    ready: bool = False
    in_flight: int = 0
    heard: float = 0.0
    trouble: str = "not asked yet"
    rest: float = 0.0
    fell: asyncio.Event = field(default_factory=asyncio.Event)

    def fall(self, fault: Fault) -> None:
        """Send it nothing more until it was asked how it is."""
        self.ready, self.trouble, self.rest = False, str(fault), fault.rest or 0.0
        self.fell.set()

    def rise(self, model: str) -> None:
        """It serves the policy under this name."""
        self.model, self.ready, self.trouble, self.rest = model, True, "", 0.0
        self.fell.clear()


async def ask(
    session: ClientSession, server: Server, request: Request, *, end_ids: Sequence[int], length: int, stall: float
) -> Completion:
    """The server's answer.

    An answer is given up where its server has sent no byte of any answer for `stall` seconds; a server that is behind,
    and answers others first, is given ten times as long.

    Raises:
        Fault: there is none, or none that can be used; another try may succeed.
        Refused: there will be none.
    """
    body, sent = body_of(request, model=server.model, end_ids=end_ids, length=length), time.monotonic()
    answer = Answer(body)
    try:
        async with (
            asyncio.timeout(stall) as waiting,
            session.post(f"{server.url}/v1/completions", json=body) as response,
        ):
            if response.status != 200:
                check_status(response.status, await response.text(errors="replace"), response.headers)
            waiting.reschedule(None)
            while data := await _listen(server, response, stall):
                answer.feed(data)
    except ClientError as error:
        raise Fault(str(error) or type(error).__name__, rest=0.0) from error
    except TimeoutError as error:
        raise Fault(f"no byte for {stall:g} s", rest=0.0) from error
    except OSError as error:
        raise Fault(f"{type(error).__name__}: {error}", rest=0.0) from error
    return answer.completion(request, seconds=time.monotonic() - sent)


async def _listen(server: Server, response: ClientResponse, stall: float) -> bytes:
    """Some bytes of the answer; none at its end.

    Raises:
        TimeoutError: the server is silent.
    """
    for _ in range(PASSED_OVER):
        try:
            async with asyncio.timeout(stall):
                data = await response.content.readany()
            server.heard = time.monotonic()
            return data
        except TimeoutError:
            if server.heard <= time.monotonic() - stall:
                raise
    raise TimeoutError
