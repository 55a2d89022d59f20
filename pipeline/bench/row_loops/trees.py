"""Loops of the methods that compare a step with the steps beside and above it."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.bench.row_loops.rows import SAME, Row, RowCredit, judged_leaves, mean, path, verl_scale


def spo_tree_rows(rows: Sequence[Row]) -> RowCredit:
    """A node's value is the mean of its children's; its advantage is its value less its parent's."""
    value: list[float | None] = [row.reward for row in rows]
    below: list[list[float]] = [[] for _ in rows]
    for node in reversed(range(len(rows))):
        if below[node]:
            value[node] = mean(below[node])
        if value[node] is not None and rows[node].parent >= 0:
            below[rows[node].parent].append(value[node])
    advantage = _steps(rows, value)
    mask = [
        step is not None and abs(step) > SAME and len(row.tokens) > 0 for row, step in zip(rows, advantage, strict=True)
    ]
    return RowCredit(value, advantage, mask)


def treeps_rag_rows(rows: Sequence[Row]) -> RowCredit:
    """A node's value is the mean of the leaves below; its advantage is that less the parent's, plus less the root's."""
    total, leaves = [0.0] * len(rows), [0] * len(rows)
    root = list(range(len(rows)))
    for node, row in enumerate(rows):
        if row.parent >= 0:
            root[node] = root[row.parent]
        if row.reward is not None:
            total[node], leaves[node] = row.reward, 1
    for node in reversed(range(len(rows))):
        above = rows[node].parent
        if above >= 0:
            total[above] += total[node]
            leaves[above] += leaves[node]
    value = [earned / count if count else None for earned, count in zip(total, leaves, strict=True)]
    advantage = _steps(rows, value)
    for node, row in enumerate(rows):
        if row.parent >= 0 and advantage[node] is not None:
            advantage[node] += value[node] - value[root[node]]
    return RowCredit(value, advantage)


def pppo_rows(rows: Sequence[Row]) -> RowCredit:
    """A prefix, the step below the root, has what the leaves below earned together, compared within the task."""
    value: list[float | None] = [None] * len(rows)
    advantage: list[float | None] = [0.0 if row.parent < 0 else None for row in rows]
    mask = [False] * len(rows)
    for leaves in judged_leaves(rows).values():
        below: dict[int, list[list[int]]] = {}
        earned: dict[int, float] = {}
        for leaf in leaves:
            steps = path(rows, leaf)
            if steps:
                below.setdefault(steps[0], []).append(steps)
                earned[steps[0]] = earned.get(steps[0], 0.0) + rows[leaf].reward
        if not earned:
            continue
        middle, spread = verl_scale(list(earned.values()))
        for prefix, reward in earned.items():
            step = (reward - middle) / spread
            for steps in below[prefix]:
                for node in steps:
                    value[node], advantage[node] = reward, step
            mask[prefix] = abs(step) > SAME and len(rows[prefix].tokens) > 0
    return RowCredit(value, advantage, mask)


def _steps(rows: Sequence[Row], value: Sequence[float | None]) -> list[float | None]:
    """Each node's value less its parent's; 0 at roots, None where the value is."""
    steps: list[float | None] = []
    for node, row in enumerate(rows):
        if row.parent < 0:
            steps.append(0.0)
        else:
            steps.append(None if value[node] is None else value[node] - value[row.parent])
    return steps
