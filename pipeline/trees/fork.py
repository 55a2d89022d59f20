"""The judged attempts of a stored tree, for whatever is grown from them."""

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
