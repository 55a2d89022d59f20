"""Grows many trees at once: hands each strategy its answers as they come, and its asks on to the sampler.

No tree waits for another but with a shared question, and within a tree nothing waits for what its strategy does not
need. New trees are begun while the asks that are ready would not keep the engine busy. Knows no strategy, no file and
no verifier.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from pipeline.errors import BadConfig
from pipeline.generation.budget.spending import NO_CAPS, Caps, Spent
from pipeline.generation.engine import Request
from pipeline.generation.sampler import Sampler
from pipeline.trees.draft import Answer, Ask, Draft
from pipeline.trees.strategy import Growing, Shared, Strategy

READY = 768
"""Asks from which the longest are chosen: three times what an engine has in hand."""
ORDERS = ("first", "longest")
"""first: tree by tree, so that what an engine caches of a tree is still there when it is needed again, and trees are
done early; once all are begun, the least advanced goes first, so that all end together. longest: first the trees whose
answers were the longest so far, which ends sooner where lengths are alike within a task."""
TOGETHER = 16
"""Trees of one part, begun one after another, whose shared questions are put at once: when none of them has anything
under way. So it follows from the answers which questions stand together, and a reply that depends on that is the same
every time."""
_DOUBT = 2
"""Answers of mean length that a tree is taken to have had before its first."""


class Grown(NamedTuple):
    """A tree that is done. failed: asks whose requests failed."""

    draft: Draft
    failed: int


@dataclass(slots=True, eq=False)
class _Tree:
    """A tree under way.

    number:  in the order they were begun.
    group:   of the trees whose shared questions are put at once.
    growing: None once the strategy has said its last.
    shared:  the question that waits for those of other trees.
    asks:    that are ready; sent: how many were.
    rank:    its place among trees with asks that are ready; None: it has none.
    tokens:  of its answers so far.
    """

    number: int
    group: int
    draft: Draft
    growing: Growing | None
    shared: Shared | None = None
    asks: deque[Ask] = field(default_factory=deque)
    sent: int = 0
    rank: tuple[float, int] | None = None
    under_way: int = 0
    failed: int = 0
    answered: int = 0
    tokens: int = 0


@dataclass(slots=True, eq=False)
class Scheduler:
    """A strategy over many trees, on one sampler.

    reward_of: the verdict on a piece as the end of an attempt; None where it has none. Asked only where the strategy
        needs rewards, of pieces of kind `step`.
    on_request: told of every request, and the task it was made for.
    part_of:   what a tree is made again with, if at all: no shared question is put with those of another part. The
        trees of a part are begun one after another.
    stopped:   why the run ended before all trees were done; empty where it did not.
    """

    sampler: Sampler
    strategy: Strategy
    reward_of: Callable[[Draft, int], float | None] = lambda draft, piece: None
    on_request: Callable[[str, Request], None] = lambda task, request: None
    part_of: Callable[[Draft], str] = lambda draft: ""
    order: str = "first"
    caps: Caps = NO_CAPS
    ready: int = READY
    stopped: str = ""
    _places: list[tuple[tuple[float, int], int, int, _Tree]] = field(default_factory=list)
    _placed: int = 0
    _ready: int = 0
    _asked: dict[str, list[tuple[_Tree, Ask]]] = field(default_factory=lambda: defaultdict(list))
    _sharing: dict[int, list[_Tree]] = field(default_factory=lambda: defaultdict(list))
    _growing: Counter[int] = field(default_factory=Counter)
    _done: list[Grown] = field(default_factory=list)
    _begun: int = 0
    _part: str = ""
    _group: int = 0
    _grouped: int = 0
    _all_begun: bool = False
    _answered: int = 0
    _tokens: int = 0

    def __post_init__(self):
        if self.order not in ORDERS:
            raise BadConfig(f"order {self.order!r} does not exist", remedy=f"choose one of {', '.join(ORDERS)}")

    def grow(self, drafts: Iterator[Draft]) -> Iterator[Grown]:
        """Grow every draft; yield each tree as it is done, in any order. Drafts are taken as there is room for them.

        A tree that a cap left unfinished is not among them; what it has asked for is in the ledger.
        """
        started, before = time.monotonic(), replace(self.sampler.spent)
        with closing(self.sampler.stream(self._requests(drafts, started, before))) as entries:
            for entry in entries:
                key = entry.completion.key
                for tree, ask in self._asked.pop(key):
                    piece = None if entry.completion.error else self._hang(tree, ask, entry)
                    tree.under_way -= 1
                    tree.failed += piece is None
                    self._go_on(tree, Answer(ask, piece))
                yield from self._finished()
        yield from self._finished()

    def _finished(self) -> Iterator[Grown]:
        while self._done:
            yield self._done.pop(0)

    def _requests(self, drafts: Iterator[Draft], started: float, before: Spent) -> Iterator[Request | None]:
        """What to ask next, whenever there is room for more."""
        ahead = self.ready if self.order == "longest" else 1
        while True:
            self.stopped = self.stopped or self.caps.reached(
                seconds=time.monotonic() - started, before=before, now=self.sampler.spent
            )
            if self.stopped:
                return
            self._reply_to_shared()
            while not self._all_begun and self._ready < ahead:
                draft = next(drafts, None)
                self._all_begun = draft is None
                if draft is not None:
                    self._begin(draft)
            request = self._next()
            if request is not None:
                yield request
            elif self._asked:
                yield None
            elif not self._sharing:
                return

    def _next(self) -> Request | None:
        """The next request that is not under way already; None where no ask is ready."""
        while self._ready:
            tree = self._foremost()
            ask = tree.asks.popleft()
            self._ready -= 1
            tree.sent += 1
            self._place(tree)
            request = self.sampler.request(tree.draft.prefix(ask.at), ask.sampling, sample=ask.sample)
            self.on_request(tree.draft.task, request)
            self._asked[request.key].append((tree, ask))
            if len(self._asked[request.key]) == 1:
                return request
        return None

    def _begin(self, draft: Draft) -> None:
        part = self.part_of(draft)
        if part != self._part or self._grouped == TOGETHER:
            self._part, self._group, self._grouped = part, self._group + 1, 0
        tree = _Tree(self._begun, self._group, draft, self.strategy.grow(draft))
        self._begun += 1
        self._grouped += 1
        self._growing[tree.group] += 1
        self._go_on(tree, None)

    def _reply_to_shared(self) -> None:
        """Reply to the shared questions of trees all of which wait for that, or are done."""
        for group, trees in list(self._sharing.items()):
            all_begun = self._all_begun or group < self._group or self._grouped == TOGETHER
            if all_begun and len(trees) == self._growing[group]:
                del self._sharing[group]
                trees.sort(key=lambda tree: tree.number)
                replies = trees[0].shared.reply([tree.shared.question for tree in trees])
                for tree, reply in zip(trees, replies, strict=True):
                    tree.shared = None
                    self._go_on(tree, reply)

    def _go_on(self, tree: _Tree, answer: Any) -> None:
        """Send a strategy an answer, or a reply, and take its asks; a tree nothing is under way for is done."""
        asks: Sequence[Ask] | Shared = ()
        if tree.growing is not None:
            try:
                asks = next(tree.growing) if answer is None else tree.growing.send(answer)
            except StopIteration:
                tree.growing = None
        if isinstance(asks, Shared):
            tree.shared = asks
            self._sharing[tree.group].append(tree)
            asks = ()
        tree.asks += asks
        tree.under_way += len(asks)
        self._ready += len(asks)
        self._place(tree)
        if (tree.shared is None) == (tree.under_way > 0):
            return
        if tree.growing is not None:
            said = "puts a shared question while something" if tree.shared else "waits, and nothing"
            raise RuntimeError(f"the strategy of tree {tree.draft.tree} {said} is under way")
        self._growing[tree.group] -= 1
        self._done.append(Grown(tree.draft, tree.failed))

    def _foremost(self) -> _Tree:
        """The tree whose ask goes next."""
        while True:
            rank, *_, tree = self._places[0]
            if rank == tree.rank and tree.asks:
                return tree
            heapq.heappop(self._places)
            if rank == tree.rank:
                tree.rank = None

    def _place(self, tree: _Tree) -> None:
        """Give a tree its place among those with asks; a former one no longer counts."""
        rank = self._rank(tree)
        if tree.asks and rank != tree.rank:
            tree.rank = rank
            self._placed += 1
            heapq.heappush(self._places, (rank, tree.number, self._placed, tree))

    def _rank(self, tree: _Tree) -> tuple[float, int]:
        """The least goes first. Of trees that nothing is known of yet, each sends one ask before one sends more."""
        if self.order == "first":
            return 0.0, tree.sent if self._all_begun else 0
        if not tree.answered:
            return -1.0, tree.sent
        mean = self._tokens / self._answered
        return -(tree.tokens / mean + _DOUBT) / (tree.answered + _DOUBT), 0

    def _hang(self, tree: _Tree, ask: Ask, entry) -> int:
        draft = tree.draft
        piece = draft.add(ask, entry)
        tree.answered += 1
        tree.tokens += len(entry.completion.token_ids)
        self._answered += 1
        self._tokens += len(entry.completion.token_ids)
        if self.strategy.needs_rewards and ask.kind == "step":
            draft.pieces[piece].reward = self.reward_of(draft, piece)
        return piece
