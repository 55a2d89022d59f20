"""A server that speaks vLLM's protocol over real HTTP: answers by a hash of prompt and seed, goes wrong on order."""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from pipeline.generation.served.background import background

END, VERSION = 1, "0.32.0"
REFUSAL = "Token id 999 is out of vocabulary"
Events = list[dict[str, Any]]
_LENGTH = re.compile(rb"(?i)content-length: *(\d+)")


def answer(body: dict[str, Any]) -> tuple[list[int], list[float], str]:
    """Tokens, log-probabilities and finish of a request: the same wherever and whenever it is asked."""
    asked = json.dumps([body["prompt"], body["seed"], body["temperature"], body["top_p"]])
    draw = random.Random(blake2b(asked.encode()).digest())
    ids = [*(draw.randrange(2, 320) for _ in range(draw.randrange(12))), END][: body["max_tokens"]]
    return ids, [-draw.randrange(64) / 16 for _ in ids], "stop" if ids[-1] == END else "length"


def events(body: dict[str, Any], *, cached: bool = True) -> Events:
    """An answer as it is streamed: the first token, the others, the counts."""
    ids, logprobs, finish = answer(body)
    parts = [(ids[:1], logprobs[:1], None), (ids[1:], logprobs[1:], finish)]
    choices = [
        {"index": 0, "token_ids": some, "logprobs": {"token_logprobs": theirs}, "finish_reason": end}
        for some, theirs, end in parts
    ]
    choices[0]["prompt_token_ids"] = body["prompt"]
    usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": len(ids)}
    if cached:
        usage["prompt_tokens_details"] = {"cached_tokens": len(body["prompt"]) // 16 * 16}
    return [*({"choices": [choice]} for choice in choices), {"choices": [], "usage": usage}]


def _first(change: Callable[[dict[str, Any]], None]) -> Callable[[Events, dict[str, Any]], None]:
    return lambda stream, body: change(stream[0]["choices"][0])


def _set(key: str, value: object) -> Callable[[Events, dict[str, Any]], None]:
    return _first(lambda choice: choice.__setitem__(key, value))


def _too_many(stream: Events, body: dict[str, Any]) -> None:
    more = body["max_tokens"]
    stream[0]["choices"][0]["token_ids"] += [7] * more
    stream[0]["choices"][0]["logprobs"]["token_logprobs"] += [-1.0] * more
    stream[-1]["usage"]["completion_tokens"] += more


def _endless(stream: Events, body: dict[str, Any]) -> None:
    last = stream[1]["choices"][0]["token_ids"] or stream[0]["choices"][0]["token_ids"]
    last[-1] = END + 1


FALSE: dict[str, Callable[[Events, dict[str, Any]], None]] = {
    "count of tokens": lambda stream, body: stream[-1]["usage"].update(completion_tokens=99),
    "a log-probability too few": _set("logprobs", {"token_logprobs": []}),
    "a log-probability that is null": _set("logprobs", {"token_logprobs": [None]}),
    "a log-probability that is no number": _set("logprobs", {"token_logprobs": [float("nan")]}),
    "more than max_tokens": _too_many,
    "a negative id": _set("token_ids", [-1]),
    "an id that is no integer": _set("token_ids", [1.5]),
    "an id that is text": _set("token_ids", ["7"]),
    "an id beyond int32": _set("token_ids", [2**31]),
    "no ids": _first(lambda choice: choice.pop("token_ids")),
    "another prompt": _set("prompt_token_ids", [3, 3, 3]),
    "aborted": lambda stream, body: stream[1]["choices"][0].update(finish_reason="abort"),
    "no finish": lambda stream, body: stream[1]["choices"][0].update(finish_reason=None),
    "cut too early": lambda stream, body: stream[1]["choices"][0].update(finish_reason="length"),
    "no counts": lambda stream, body: stream.pop(),
    "no end token": _endless,
    "500 as an event": lambda stream, body: stream.insert(1, {"error": {"message": "out of memory", "code": 500}}),
    "400 as an event": lambda stream, body: stream.insert(0, {"error": {"message": REFUSAL, "code": 400}}),
}
"""Answers that are whole as HTTP and false in what they say."""
STATUSES = ("400", "429", "500", "502", "503")
BROKEN = ("reset", "reset amid", "ended amid", "cut JSON", "no end", "stall", "stall amid")
"""Answers that are no HTTP, or too little of it."""
REFUSALS = ("400", "400 as an event")
FAULTS = [fault for fault in (*FALSE, *STATUSES, *BROKEN) if fault not in REFUSALS]
"""What another try mends."""


@dataclass
class FakeServer:
    """Use as a context manager, or `start` and `kill` it as often as need be: it keeps its port.

    model:       the name it serves.
    fault:       the fault, if any, with which it answers a body; `number` counts the bodies it got, from 0.
    retry_after: what it says with 429 and 503.
    pause:       seconds between an answer's first token and its others.
    keep:        whether it keeps the bodies it gets.
    """

    model: str
    fault: Callable[[int, dict[str, Any]], str | None] = lambda number, body: None
    retry_after: str | None = None
    pause: Callable[[dict[str, Any]], float] = lambda body: 0.0
    version: str = VERSION
    max_model_len: int = 1024
    cached: bool = True
    keep: bool = True
    wants_key: bool = False
    port: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    asked: int = 0
    probed: int = 0
    connections: int = 0
    in_flight: int = 0
    fullest: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._listening = _Listening(self)
        self._running = background(self._listening)
        self._submit = self._running.__enter__()

    def kill(self) -> None:
        """Reset every connection and listen no more."""
        self._submit(self._listening.close()).result()
        self._running.__exit__(None, None, None)

    def __enter__(self) -> FakeServer:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()


class _Listening:
    """The open socket of a FakeServer."""

    def __init__(self, fake: FakeServer):
        self._fake = fake
        self._talks: set[_Talk] = set()

    async def __aenter__(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Talk(self._fake, self._talks), "127.0.0.1", self._fake.port)
        self._fake.port = self._server.sockets[0].getsockname()[1]

    async def __aexit__(self, *error: object) -> None:
        for talk in self._talks:
            talk.reset()

    async def close(self) -> None:
        """Accept no more; asyncio's server would lose a connection that it is accepting, so that is let finish."""
        asyncio.get_running_loop().remove_reader(self._server.sockets[0].fileno())
        await asyncio.sleep(0.01)
        self._server.close()


class _Talk(asyncio.Protocol):
    """One connection, kept alive; one request at a time."""

    def __init__(self, fake: FakeServer, talks: set[_Talk]):
        self._fake, self._talks, self._data, self._answering = fake, talks, b"", False

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._talks.add(self)
        self._fake.connections += 1

    def connection_lost(self, error: Exception | None) -> None:
        self._talks.discard(self)
        self._fake.connections -= 1
        self._ended()

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, rest = self._data.partition(b"\r\n\r\n")
        size = _LENGTH.search(head)
        if found and len(rest) >= (count := int(size[1]) if size else 0):
            self._data = rest[count:]
            self._reply(head.split(b" ", 2)[1].decode(), rest[:count])

    def reset(self) -> None:
        """End the connection as a killed process does."""
        wire = self._transport.get_extra_info("socket")
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _reply(self, path: str, data: bytes) -> None:
        fake = self._fake
        if path == "/v1/completions":
            body = json.loads(data)
            fault = fake.fault(fake.asked, body)
            self._answering = True
            fake.asked += 1
            fake.in_flight += 1
            fake.fullest = max(fake.fullest, fake.in_flight)
            if fake.keep:
                fake.bodies.append(body)
            self._complete(body, fault)
        elif path == "/v1/models" and fake.wants_key:
            self._refuse(401, "Unauthorized")
        elif path == "/v1/models":
            entry = {"id": fake.model, "root": f"/models/{fake.model}", "max_model_len": fake.max_model_len}
            self._fake.probed += 1
            self._say(200, {"data": [entry]})
        elif path == "/version":
            self._say(200, {"version": fake.version})
        else:
            self._say(200 if path == "/health" else 404, {})

    def _complete(self, body: dict[str, Any], fault: str | None) -> None:
        if body["model"] != self._fake.model:
            self._refuse(404, f"The model `{body['model']}` does not exist.")
        elif fault in STATUSES:
            self._refuse(int(fault), "busy" if fault != "400" else REFUSAL)
        elif fault == "reset":
            self.reset()
        elif fault != "stall":
            self._stream(body, fault)

    def _stream(self, body: dict[str, Any], fault: str | None) -> None:
        stream = events(body, cached=self._fake.cached)
        if fault in FALSE:
            FALSE[fault](stream, body)
        lines = [f"data: {json.dumps(event)}\n\n".encode() for event in stream]
        lines += [b"data: [DONE]\n\n"] if fault != "no end" else []
        if fault == "cut JSON":
            lines[1] = lines[1][: len(lines[1]) // 2] + b"\n\n"
        first, rest = lines[0], b"".join(lines[1:])
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        self._transport.write(head + b"%x\r\n%b\r\n" % (len(first), first))
        end = b"%x\r\n%b\r\n0\r\n\r\n" % (len(rest), rest)
        if fault == "reset amid":
            self.reset()
        elif fault == "ended amid":
            self._transport.close()
        elif fault != "stall amid":
            asyncio.get_running_loop().call_later(self._fake.pause(body), self._write, end)

    def _refuse(self, status: int, message: str) -> None:
        later = f"retry-after: {self._fake.retry_after}\r\n" if self._fake.retry_after else ""
        self._say(status, {"error": {"message": message}}, headers=later)

    def _say(self, status: int, content: object, *, headers: str = "") -> None:
        text = json.dumps(content)
        self._write(f"HTTP/1.1 {status} -\r\n{headers}content-length: {len(text)}\r\n\r\n{text}".encode())

    def _write(self, data: bytes) -> None:
        self._ended()
        self._transport.write(data)

    def _ended(self) -> None:
        self._fake.in_flight -= self._answering
        self._answering = False
