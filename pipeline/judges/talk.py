"""Talks with a judge: it asks, is answered, may ask again, and ends with what it says of nodes.

A judge is a generator a tree, as a growth strategy is: it yields asks and is sent all their replies at once. Talks of
many trees are held at a time, so that the engine is kept busy; which reply comes first changes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from pipeline.generation.engine import Request, Sampling
from pipeline.generation.sampler import Sampler
from pipeline.prompts import Messages
from pipeline.store.ledger import Entry

if TYPE_CHECKING:
    from pipeline.generation.tokens import Tokens

READY = 768
"""Asks that are ready before no further talk is begun: three times what an engine has in hand."""


class Ask(NamedTuple):
    """One answer wanted. sample: index among those to equal messages."""

    messages: Messages
    sampling: Sampling
    sample: int = 0


class Reply(NamedTuple):
    """What came of an ask.

    text:  empty where nothing came. error: why; None where something did.
    tokens: texts of the tokens it was decoded as, and logprobs, their natural log-probabilities.
    """

    text: str
    tokens: tuple[str, ...] = ()
    logprobs: tuple[float, ...] = ()
    error: str | None = None


class Said(NamedTuple):
    """What a judge says of a node.

    name:    of scores; empty for a step label.
    value:   of scores; the chance that a step is right, for labels. None: nothing can be told, or it was not read.
    text:    of scores, JSON; the reasons, for labels, also where they could not be read.
    hard, k, successes: of labels: the verdict, the answers that could be read, those that found the step right.
    tokens:  decoded for it.
    unread:  answers to it that could not be read.
    """

    node: int
    value: float | None = None
    text: str | None = None
    name: str = ""
    hard: bool | None = None
    k: int | None = None
    successes: int | None = None
    tokens: int = 0
    unread: int = 0


Talk = Generator[Sequence[Ask], list[Reply], list[Said]]
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Held:
    """A talk under way. replies: to what it asked last; None: not there yet."""

    about: object
    talk: Talk
    replies: list[Reply | None] = field(default_factory=list)


@dataclass(slots=True)
class Talks:
    """Holds talks on one sampler.

    tokens: the judge's tokenizer. max_length: positions it has for prompt and answer.
    on_request: told what a talk is about and every request it makes.
    """

    sampler: Sampler
    tokens: Tokens
    max_length: int
    on_request: Callable[[object, Request], None] = lambda about, request: None
    _ready: deque[tuple[_Held, int, Request]] = field(default_factory=deque)
    _asked: dict[str, list[tuple[_Held, int]]] = field(default_factory=dict)
    _done: list[tuple[object, list[Said]]] = field(default_factory=list)

    def hold(self, talks: Iterator[tuple[T, Talk]]) -> Iterator[tuple[T, list[Said]]]:
        """Hold every talk; yield what it is about and what it says, as each ends."""
        with closing(self.sampler.stream(self._requests(talks))) as entries:
            for entry in entries:
                for held, place in self._asked.pop(entry.completion.key):
                    self._answer(held, place, self._reply(entry))
                yield from self._ended()
        yield from self._ended()

    def _ended(self) -> Iterator[tuple[T, list[Said]]]:
        while self._done:
            yield self._done.pop()

    def _requests(self, talks: Iterator[tuple[T, Talk]]) -> Iterator[Request | None]:
        more = True
        while True:
            while more and len(self._ready) < READY:
                begun = next(talks, None)
                more = begun is not None
                if begun is not None:
                    self._go_on(_Held(*begun), None)
            request = self._next()
            if request is not None:
                yield request
            elif self._asked:
                yield None
            elif not more:
                return

    def _next(self) -> Request | None:
        """A request that is not under way already."""
        while self._ready:
            held, place, request = self._ready.popleft()
            self._asked.setdefault(request.key, []).append((held, place))
            if len(self._asked[request.key]) == 1:
                return request
        return None

    def _go_on(self, held: _Held, replies: list[Reply] | None) -> None:
        """Send a talk its replies and take what it asks next."""
        while True:
            try:
                asks = next(held.talk) if replies is None else held.talk.send(replies)
            except StopIteration as end:
                self._done.append((held.about, end.value))
                return
            held.replies = [None] * len(asks)
            for place, ask in enumerate(asks):
                made = self._request(held, ask)
                if isinstance(made, Reply):
                    held.replies[place] = made
                else:
                    self._ready.append((held, place, made))
            if None in held.replies:
                return
            replies = [reply for reply in held.replies if reply is not None]

    def _answer(self, held: _Held, place: int, reply: Reply) -> None:
        held.replies[place] = reply
        if None not in held.replies:
            self._go_on(held, [one for one in held.replies if one is not None])

    def _request(self, held: _Held, ask: Ask) -> Request | Reply:
        """The request of an ask; a reply that says why there can be none."""
        if not all(self.tokens.safe(message["content"]) for message in ask.messages):
            return Reply("", error="the prompt would spell a control token")
        prompt = self.tokens.render(ask.messages)
        left = self.max_length - len(prompt)
        if left < 1:
            return Reply("", error=f"the prompt has {len(prompt)} tokens, the judge {self.max_length} positions")
        most = min(ask.sampling.max_tokens, left)
        sampling = replace(ask.sampling, max_tokens=most)
        request = self.sampler.request(prompt, sampling, sample=ask.sample)
        self.on_request(held.about, request)
        return request

    def _reply(self, entry: Entry) -> Reply:
        answer = entry.completion
        if answer.error is not None:
            return Reply("", error=answer.error)
        ids = answer.token_ids.tolist()
        return Reply(
            self.tokens.decode(ids),
            tuple(self.tokens.decode([one]) for one in ids),
            tuple(np.asarray(answer.logprobs, np.float64).tolist()),
        )


def shared(tokens: int, count: int) -> list[int]:
    """So many tokens shared by `count` labels that one answer gives: whole numbers, their sum the tokens."""
    return [tokens // count + (place < tokens % count) for place in range(count)]
