"""What a growth strategy is: it says what to draw next, is told what came, and never calls an engine.

A strategy is a generator a tree: it yields asks and is sent an answer at a time, in whatever order they come. So it can
go on the moment something has come, and none waits for another that it does not need.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from pipeline.trees.draft import Answer, Ask, Draft


class Shared(NamedTuple):
    """A question that costs less for several trees at once than for each by itself.

    reply:    to the questions of several trees, in their order. The same for all trees of a strategy.
    question: this tree's.
    """

    reply: Callable[[list[Any]], Sequence[Any]]
    question: Any


Growing = Generator[Sequence[Ask] | Shared, Any, None]
"""Yields what to ask beside all that is under way, an empty list included, and is sent the next answer; or a shared
question, while nothing is under way, and is sent the reply."""


class Strategy(Protocol):
    """Decides what is drawn for a tree. What it does may depend on answers, not on the order in which they came."""

    @property
    def needs_rewards(self) -> bool:
        """Whether it must know how right an attempt was while the tree grows."""
        ...

    @property
    def by_step(self) -> bool:
        """Whether answers are cut into steps; else only where others hang on them."""
        ...

    def grow(self, draft: Draft) -> Growing:
        """Grow one tree, which holds no more than the prompt or what earlier stages left."""
        ...


@dataclass(frozen=True, slots=True)
class Informed:
    """Rules that look at more than what came: `grow` of the rules takes, beside the draft, a function that tells it,
    such as what a tool says of a step. What the function is must be told by the rules' parameters.
    """

    rules: Any
    tells: Callable

    @property
    def needs_rewards(self) -> bool:
        """As the rules."""
        return self.rules.needs_rewards

    @property
    def by_step(self) -> bool:
        """As the rules."""
        return self.rules.by_step

    def grow(self, draft: Draft) -> Growing:
        """Grow one tree by the rules."""
        return self.rules.grow(draft, self.tells)


def spread(asks: Iterable[Ask], follow: Callable[[Answer], Iterable[Ask]]) -> Growing:
    """Ask, and ask on as each answer comes, until nothing is under way. Use with `yield from`."""
    more = list(asks)
    under_way = len(more)
    while under_way:
        answer = yield more
        more = list(follow(answer))
        under_way += len(more) - 1


def gather(asks: Iterable[Ask]) -> Generator[Sequence[Ask], Answer, list[Answer]]:
    """Ask, and wait for every answer: they are given in the order of the asks. Use with `yield from`.

    Raises:
        ValueError: two asks are equal.
    """
    wanted = list(asks)
    if len(set(wanted)) < len(wanted):
        raise ValueError(f"the same is asked twice: {next(ask for ask in wanted if wanted.count(ask) > 1)}")
    found: dict[Ask, Answer] = {}
    more: Sequence[Ask] = wanted
    while len(found) < len(wanted):
        answer = yield more
        found[answer.ask] = answer
        more = ()
    return [found[ask] for ask in wanted]
