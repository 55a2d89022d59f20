"""Ways to have trees drawn: ours, and those it is measured beside. Each says which requests came of it.

All take any engine; only ours goes through the ledger. Knows no figure.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.generation.engine import Engine, Request, Sampling, make_request
from pipeline.generation.sampler import Sampler
from pipeline.generation.scheduler import Scheduler
from pipeline.store.ledger import Ledger
from pipeline.trees.draft import Answer, Ask, Draft, Piece, Spot
from pipeline.trees.grow import Tree
from pipeline.trees.growth.flat import Flat
from pipeline.trees.lay_out import lay_out
from pipeline.trees.strategy import Growing, Strategy, spread


class Asked(NamedTuple):
    """A request and what came of it.

    waits: key of the request whose answer its prompt ends with. None: it could be asked from the start.
    prompt, answer: `[P]`, `[T]` int32.
    cached: tokens of the prompt that the engine did not compute.
    """

    key: str
    waits: str | None
    prompt: np.ndarray
    answer: np.ndarray
    cached: int


class Drawn(NamedTuple):
    """What a way came to.

    kept: tokens in sampled nodes, as ours are laid out; in answers of the others.
    seconds: until the last answer; laying out is not among them.
    """

    asked: list[Asked]
    kept: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Turns:
    """Every answer is gone on from by so many others, whether it came to an end or not, as an agent's turns are.

    branching: answers at each place, level by level.
    """

    branching: tuple[int, ...]
    max_tokens: int

    needs_rewards = False
    by_step = False

    def grow(self, draft: Draft) -> Growing:
        """Go on from each answer the moment it is there."""
        sampling = Sampling(max_tokens=self.max_tokens)

        def below(at: Spot, level: int) -> Sequence[Ask]:
            if level == len(self.branching):
                return ()
            return [Ask(at, sample, sampling, note=level) for sample in range(self.branching[level])]

        def follow(answer: Answer) -> Sequence[Ask]:
            return () if answer.piece is None else below(draft.end_of(answer.piece), answer.ask.note + 1)

        yield from spread(below(draft.root, 0), follow)


@dataclass(frozen=True, slots=True)
class Attempted:
    """A rule that begins with attempts, after a flat group of them."""

    rule: Strategy
    group: int = 8

    needs_rewards = True
    by_step = True

    def grow(self, draft: Draft) -> Growing:
        """Sample the prompt, then grow by the rule."""
        yield from Flat(self.group).grow(draft)
        yield from self.rule.grow(draft)


def ours(
    engine: Engine,
    strategy: Strategy,
    drafts: Iterable[Draft],
    *,
    order: str = "first",
    reward_of: Callable[[Draft, int], float | None] = lambda draft, piece: None,
) -> Drawn:
    """The scheduler over a new ledger."""

    def grow(sampler: Sampler) -> Iterator[Draft]:
        scheduler = Scheduler(sampler, strategy, reward_of=reward_of, order=order)
        return (one.draft for one in scheduler.grow(iter(drafts)))

    return recorded(engine, grow, by_step=strategy.by_step)


def recorded(engine: Engine, grow: Callable[[Sampler], Iterable[Draft]], *, by_step: bool) -> Drawn:
    """What came of growing drafts over a new ledger. by_step: as of a strategy."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="branchpoint-bench-") as folder, Ledger(Path(folder) / "ledger") as ledger:
        grown = list(grow(Sampler(ledger, engine.name, engine.fingerprint, lambda: engine)))
    seconds = time.perf_counter() - start
    asked: dict[str, Asked] = {}
    kept = 0
    for draft in grown:
        for piece in draft.pieces:
            if piece.entry is not None:
                entry, done = piece.entry, piece.entry.completion
                waits = _waits(draft, piece)
                asked.setdefault(done.key, Asked(done.key, waits, entry.prompt, done.token_ids, done.cached or 0))
        tree = Tree(draft.task, draft.tree)
        lay_out(draft, tree, by_step=by_step)
        kept += sum(node["token_count"] for node in tree.nodes if node["sampled"])
    return Drawn(list(asked.values()), kept, seconds)


def _waits(draft: Draft, piece: Piece) -> str | None:
    """The request whose answer had to be there before a piece could be asked for; what was written lies between."""
    if len(piece.entry.prompt) == len(draft.pieces[0].token_ids):
        return None  # though it may hang on another, where prefixes were merged
    while piece.at is not None:
        piece = draft.pieces[piece.at.piece]
        if piece.entry is not None:
            return piece.entry.completion.key
    return None


def by_level(engine: Engine, branching: tuple[int, ...], prompts: Iterable[np.ndarray], *, max_tokens: int) -> Drawn:
    """All trees a level at a time: none begins before all answers of the level above are there."""
    start, sampling, found = time.perf_counter(), Sampling(max_tokens=max_tokens), []
    ends = [(None, prompt) for prompt in prompts]
    for width in branching:
        level = [
            (waits, make_request(end, sampling, sample=sample, fingerprint=engine.fingerprint))
            for waits, end in ends
            for sample in range(width)
        ]
        drawn = list(_drive(engine, level, lambda asked: ()))
        ends = [(asked.key, np.concatenate((asked.prompt, asked.answer))) for asked in drawn]
        found += drawn
    return Drawn(found, sum(len(asked.answer) for asked in found), time.perf_counter() - start)


def in_batches(
    engine: Engine, branching: tuple[int, ...], prompts: Iterable[np.ndarray], *, max_tokens: int, batch: int
) -> Drawn:
    """As many whole answers as the trees have leaves, each on its own, a batch at a time."""
    begun, sampling, depth, found = time.perf_counter(), Sampling(max_tokens=max_tokens), len(branching), []
    chains = [
        (None, make_request(prompt, sampling, sample=sample, fingerprint=engine.fingerprint))
        for prompt in prompts
        for sample in range(math.prod(branching))
    ]
    levels: dict[str, int] = {}

    def follow(asked: Asked) -> list[tuple[str, Request]]:
        level = levels.setdefault(asked.key, 1 + levels.get(asked.waits, 0))
        if level == depth:
            return []
        end = np.concatenate((asked.prompt, asked.answer))
        return [(asked.key, make_request(end, sampling, sample=0, fingerprint=engine.fingerprint))]

    for start in range(0, len(chains), batch):
        found += _drive(engine, chains[start : start + batch], follow)
    return Drawn(found, sum(len(asked.answer) for asked in found), time.perf_counter() - begun)


def _drive(
    engine: Engine,
    first: Iterable[tuple[str | None, Request]],
    follow: Callable[[Asked], Iterable[tuple[str | None, Request]]],
) -> Iterator[Asked]:
    """Ask, and ask on as each answer comes."""
    ready, under_way = deque(first), {}

    def source() -> Iterator[Request | None]:
        while ready or under_way:
            if not ready:
                yield None
                continue
            waits, request = ready.popleft()
            under_way[request.key] = waits, request
            yield request

    for completion in engine.generate(source()):
        waits, request = under_way.pop(completion.key)
        asked = Asked(completion.key, waits, request.prompt, completion.token_ids, completion.cached or 0)
        ready.extend(follow(asked))
        yield asked
