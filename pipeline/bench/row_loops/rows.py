"""Nodes as plain Python objects, and what the loops share: paths, groups, means. Knows no method."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

SAME = 1e-9
"""Numbers no further apart are equal, as all methods have it."""
RENDERED = 0
"""The code of `prompt`, as a kind and as an origin."""


class Row(NamedTuple):
    """A node, parents before children; None: unknown.

    parent: its place in the list, -1 at a root. reward: the verdict. step_reward: what the environment paid.
    step_soft, step_hard: a labeller's chance of success, and 1 for a right step, 0 for a wrong one.
    tool_calls, useful, reference_calls, subgoals: JSON. The rest as INPUTS has it, words and states as codes.
    """

    parent: int
    tree: int
    reward: float | None
    tokens: Sequence[int]
    turn: int = 0
    agent: int = 0
    kind: int | None = None
    sampled: bool = True
    origin: int | None = None
    finish: int | None = None
    state: int | None = None
    step_reward: float = 0.0
    text: str | None = None
    tool_calls: str | None = None
    step_soft: float | None = None
    step_hard: float | None = None
    logprobs: Sequence[float | None] = ()
    useful: str | None = None
    searched: float | None = None
    closed_book: float | None = None
    key_turn: float | None = None
    critic_q: float | None = None
    critic_v: float | None = None
    latent_reward: float | None = None
    better_logprobs: Sequence[float | None] = ()
    worse_logprobs: Sequence[float | None] = ()
    planning: Sequence[float | None] = ()
    prm_logprobs: Sequence[float | None] = ()
    tuned_logprobs: Sequence[float | None] = ()
    reference_logprobs: Sequence[float | None] = ()
    critic_values: Sequence[float | None] = ()
    waad: Sequence[float | None] = ()
    fai: Sequence[float | None] = ()
    reference_calls: str | None = None
    subgoals: str | None = None
    long_thinking: float | None = None
    budget: float | None = None
    attribution_goal: float | None = None
    attribution_relationship: float | None = None
    attribution_knowledge: float | None = None
    score_goal: float | None = None
    score_relationship: float | None = None
    score_knowledge: float | None = None


class RowCredit(NamedTuple):
    """What a method says, a node at a time; None: unknown. A list that is None: the method has no such column."""

    value: list[float | None] | None
    advantage: list[float | None]
    mask: list[bool] | None = None
    token_advantages: list[list[float | None]] | None = None
    weight: list[float | None] | None = None


def judged_leaves(rows: Sequence[Row]) -> dict[int, list[int]]:
    """The places of the leaves with a verdict, by tree; trees without one are left out."""
    groups: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        if row.reward is not None:
            groups.setdefault(row.tree, []).append(place)
    return groups


def judged_runs(rows: Sequence[Row]) -> dict[int, list[int]]:
    """As `judged_leaves`, without the tasks that nobody went on from."""
    groups = judged_leaves(rows)
    return {tree: leaves for tree, leaves in groups.items() if rows[leaves[0]].parent >= 0}


def all_leaves(rows: Sequence[Row]) -> dict[int, list[int]]:
    """The places of the leaves, by tree; a root alone is none."""
    inner = {row.parent for row in rows}
    groups: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        if row.parent >= 0 and place not in inner:
            groups.setdefault(row.tree, []).append(place)
    return groups


def path(rows: Sequence[Row], leaf: int) -> list[int]:
    """The places of the nodes from below the root to a leaf."""
    steps = []
    while rows[leaf].parent >= 0:
        steps.append(leaf)
        leaf = rows[leaf].parent
    return steps[::-1]


def is_said(row: Row) -> bool:
    """Whether the policy said it: neither a root nor rendered."""
    return row.parent >= 0 and RENDERED not in (row.kind, row.origin)


def spoken_path(rows: Sequence[Row], leaf: int) -> list[int]:
    """As `path`, of what the policy said."""
    return [step for step in path(rows, leaf) if is_said(rows[step])]


def at_said(rows: Sequence[Row], of_node: Iterable[tuple[int, float]], *, unsaid: float | None = 0.0) -> list:
    """As `at_nodes`; `unsaid` for whatever the policy did not say."""
    means = at_nodes(rows, of_node)
    return [value if is_said(row) else unsaid for row, value in zip(rows, means, strict=True)]


def along_said(rows: Sequence[Row], of_leaf: Iterable[tuple[int, float]]) -> list[float | None]:
    """As `along_paths`; 0 for whatever the policy did not say."""
    means = along_paths(rows, of_leaf)
    return [value if is_said(row) else 0.0 for row, value in zip(rows, means, strict=True)]


def expected(rows: Sequence[Row], of_leaf: Iterable[tuple[int, float]]) -> list[float | None]:
    """The mean of what is said of the leaves below each node, roots too; None where nothing is, and if rendered."""
    total, times = [0.0] * len(rows), [0] * len(rows)
    for leaf, value in of_leaf:
        place = leaf
        while place >= 0:
            total[place] += value
            times[place] += 1
            place = rows[place].parent
    return [
        total[place] / times[place] if times[place] and (row.parent < 0 or is_said(row)) else None
        for place, row in enumerate(rows)
    ]


def of_tokens(rows: Sequence[Row], said: Sequence[Sequence[float | None]]) -> list[float | None]:
    """The mean over the known tokens of a node; 0 where the policy said nothing, None without such a token."""
    known = [[value for value in values if value is not None] for values in said]
    return [(mean(some) if some else None) if is_said(row) else 0.0 for row, some in zip(rows, known, strict=True)]


def at_tokens(rows: Sequence[Row], of_token: Iterable[tuple[int, int, float]]) -> list[list[float | None]]:
    """The mean of what is said of each token, by node and place in it; NaN is left out, None where nothing is said,
    0 for whatever the policy did not say."""
    earned: list[list[list[float]]] = [[[] for _ in row.tokens] for row in rows]
    for node, place, value in of_token:
        if value == value:
            earned[node][place].append(value)
    return [
        [mean(values) if values else None for values in tokens] if is_said(row) else [0.0] * len(row.tokens)
        for row, tokens in zip(rows, earned, strict=True)
    ]


def spoken_tokens(rows: Sequence[Row], leaf: int) -> list[tuple[int, int]]:
    """Node and place of each token that the policy said on the way to a leaf."""
    return [(step, place) for step in spoken_path(rows, leaf) for place in range(len(rows[step].tokens))]


def along_paths(rows: Sequence[Row], of_leaf: Iterable[tuple[int, float]]) -> list[float | None]:
    """The mean of what is said of the leaves below each node; 0 at roots, None where nothing is."""
    total, times = [0.0] * len(rows), [0] * len(rows)
    for place, value in of_leaf:
        while (above := rows[place].parent) >= 0:
            total[place] += value
            times[place] += 1
            place = above
    return _means(rows, total, times)


def at_nodes(rows: Sequence[Row], of_node: Iterable[tuple[int, float]]) -> list[float | None]:
    """The mean of what is said of each node; 0 at roots, None where nothing is."""
    total, times = [0.0] * len(rows), [0] * len(rows)
    for place, value in of_node:
        total[place] += value
        times[place] += 1
    return _means(rows, total, times)


def _means(rows: Sequence[Row], total: list[float], times: list[int]) -> list[float | None]:
    means: list[float | None] = []
    for row, earned, often in zip(rows, total, times, strict=True):
        if row.parent < 0:
            means.append(0.0)
        else:
            means.append(earned / often if often else None)
    return means


def mean(values: Sequence[float]) -> float:
    """Mean of one value or more."""
    return sum(values) / len(values)


def alike(values: Sequence[float]) -> bool:
    """Whether all values are equal."""
    return max(values) - min(values) <= SAME


def deviation(values: Sequence[float], *, ddof: int) -> float:
    """Standard deviation of more than `ddof` values; exactly 0 among equals."""
    if alike(values):
        return 0.0
    middle = mean(values)
    return math.sqrt(sum((value - middle) ** 2 for value in values) / (len(values) - ddof))


def verl_scale(values: Sequence[float]) -> tuple[float, float]:
    """What verl takes off the members of a group, and what it divides them by; a lone one is kept."""
    if len(values) == 1:
        return 0.0, 1.0 + 1e-6
    middle = values[0] if alike(values) else mean(values)
    return middle, deviation(values, ddof=1) + 1e-6
