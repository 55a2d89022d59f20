"""Where to fork: which attempts, and after which of their steps. Decides; never calls an engine."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.trees.grow import Tree


class Attempt(NamedTuple):
    """A judged attempt: its leaf, its steps from the first on, its reward."""

    leaf: int
    steps: tuple[int, ...]
    reward: float


def attempts_of(tree: Tree, rewards: dict[tuple[str, int], float], *, origin: str = "sample") -> list[Attempt]:
    """The judged attempts of one origin, in the order of their leaves."""
    return [
        Attempt(node, tuple(tree.path(node)[1:]), rewards[tree.tree, node])
        for node, row in tree.known.items()
        if row["origin"] == origin and (tree.tree, node) in rewards and row["finish"] is not None
    ]


def mixed_attempts(attempts: list[Attempt], *, count: int) -> list[Attempt]:
    """At most `count` attempts, wrong and right in turn, so that both kinds are explored; the first of each."""
    wrong = [attempt for attempt in attempts if attempt.reward < 1]
    right = [attempt for attempt in attempts if attempt.reward >= 1]
    chosen: list[Attempt] = []
    for index in range(max(len(wrong), len(right))):
        chosen += wrong[index : index + 1] + right[index : index + 1]
    return chosen[:count]


def inner_steps(attempt: Attempt) -> tuple[int, ...]:
    """Steps after which something is still to be said: all but the last."""
    return attempt.steps[:-1]
