"""Credit methods over again, slowly: plain Python, a node at a time, as written in the papers.

Shares no code with `pipeline/credit`, so that an equal answer says something. Knows the published parameters alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

STD_EPS = 1e-6
"""Added to a group's standard deviation by GRPO as verl has it and by TEMPO."""


class Row(NamedTuple):
    """A node. parent: its place in the list, -1 at a root. reward: None where no verdict was given."""

    parent: int
    tree: int
    reward: float | None
    tokens: list[int]


class RowCredit(NamedTuple):
    """What a method says, a node at a time; None: unknown. A list that is None: the method has no such column."""

    value: list[float | None] | None
    advantage: list[float | None]
    mask: list[bool] | None
    token_advantages: list[list[float | None]] | None


def grpo_rows(rows: Sequence[Row]) -> RowCredit:
    """A trajectory's reward, less its group's mean, over the standard deviation; a node has the mean of its paths'."""
    groups = _groups(rows)
    earned: list[list[float]] = [[] for _ in rows]
    for leaf, row in enumerate(rows):
        if row.reward is None:
            continue
        rewards = groups[row.tree]
        if len(rewards) == 1:
            advantage = row.reward / (1.0 + STD_EPS)
        else:
            advantage = (row.reward - _mean(rewards)) / (_deviation(rewards) + STD_EPS)
        for node in _path(rows, leaf):
            earned[node].append(advantage)
    known = [_mean(values) if values else None for values in earned]
    return RowCredit(None, [0.0 if row.parent < 0 else known[at] for at, row in enumerate(rows)], None, None)


def spo_tree_rows(rows: Sequence[Row]) -> RowCredit:
    """A node's value is the mean of its children's; its advantage is its value less its parent's."""
    value: list[float | None] = [row.reward for row in rows]
    below: list[list[float]] = [[] for _ in rows]
    for node in reversed(range(len(rows))):
        if below[node]:
            value[node] = _mean(below[node])
        if value[node] is not None and rows[node].parent >= 0:
            below[rows[node].parent].append(value[node])
    advantage: list[float | None] = []
    mask: list[bool] = []
    for node, row in enumerate(rows):
        if row.parent < 0:
            step: float | None = 0.0
        elif value[node] is None:
            step = None
        else:
            step = value[node] - value[row.parent]
        advantage.append(step)
        mask.append(step is not None and abs(step) > 1e-9 and len(row.tokens) > 0)
    return RowCredit(value, advantage, mask, None)


def tempo_rows(rows: Sequence[Row]) -> RowCredit:
    """A token earns its group advantage plus the change in V, the mean reward of the responses that begin so."""
    groups = _groups(rows)
    children: dict[tuple[int, int], int] = {}
    total: list[float] = [0.0] * (1 + max((row.tree for row in rows), default=0))
    count: list[int] = [0] * len(total)
    for tree, rewards in groups.items():
        total[tree], count[tree] = sum(rewards), len(rewards)
    judged = [leaf for leaf, row in enumerate(rows) if row.reward is not None]
    for leaf in judged:
        place = rows[leaf].tree
        for node in _path(rows, leaf):
            for token in rows[node].tokens:
                if (place, token) not in children:
                    children[place, token] = len(total)
                    total.append(0.0)
                    count.append(0)
                place = children[place, token]
                total[place] += rows[leaf].reward
                count[place] += 1

    earned: list[list[float]] = [[0.0] * len(row.tokens) for row in rows]
    reached, passes = [0.0] * len(rows), [0] * len(rows)
    for leaf in judged:
        row = rows[leaf]
        rewards = groups[row.tree]
        mean, alike = _mean(rewards), min(rewards) == max(rewards)
        scale = 1.0 if alike else _deviation(rewards) + STD_EPS
        place, before = row.tree, mean
        for node in _path(rows, leaf):
            for at, token in enumerate(rows[node].tokens):
                place = children[place, token]
                after = total[place] / count[place]
                if not alike:
                    earned[node][at] += (row.reward - mean + after - before) / scale
                before = after
            reached[node] += before
            passes[node] += 1

    value: list[float | None] = []
    advantage: list[float | None] = []
    token_advantages: list[list[float | None]] = []
    for node, row in enumerate(rows):
        if row.parent < 0:
            value.append(_mean(groups[row.tree]) if row.tree in groups else None)
            advantage.append(0.0)
            token_advantages.append([0.0] * len(row.tokens))
        elif passes[node] == 0:
            value.append(None)
            advantage.append(None)
            token_advantages.append([None] * len(row.tokens))
        else:
            steps = [step / passes[node] for step in earned[node]]
            value.append(reached[node] / passes[node])
            advantage.append(_mean(steps) if steps else None)
            token_advantages.append(steps)
    return RowCredit(value, advantage, None, token_advantages)


ROW_LOOPS: dict[str, Callable[[Sequence[Row]], RowCredit]] = {
    "grpo": grpo_rows,
    "spo_tree": spo_tree_rows,
    "tempo": tempo_rows,
}
"""By key of METHODS. A method without one is timed, and compared with nothing."""


def _groups(rows: Sequence[Row]) -> dict[int, list[float]]:
    """The rewards of each tree's judged leaves."""
    groups: dict[int, list[float]] = {}
    for row in rows:
        if row.reward is not None:
            groups.setdefault(row.tree, []).append(row.reward)
    return groups


def _path(rows: Sequence[Row], leaf: int) -> list[int]:
    """The nodes from below the root to a leaf."""
    path = []
    while rows[leaf].parent >= 0:
        path.append(leaf)
        leaf = rows[leaf].parent
    return path[::-1]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _deviation(values: Sequence[float]) -> float:
    """Standard deviation of a sample of two or more."""
    mean = _mean(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
