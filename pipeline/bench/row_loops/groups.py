"""Loops of the methods that compare whole trajectories of a task."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.bench.row_loops.rows import (
    Row,
    RowCredit,
    alike,
    along_paths,
    judged_leaves,
    mean,
    path,
    verl_scale,
)


def grpo_rows(rows: Sequence[Row]) -> RowCredit:
    """A trajectory's reward, less its group's mean, over the standard deviation."""
    said = []
    for leaves in judged_leaves(rows).values():
        middle, spread = verl_scale([rows[leaf].reward for leaf in leaves])
        said += [(leaf, (rows[leaf].reward - middle) / spread) for leaf in leaves]
    return RowCredit(None, along_paths(rows, said))


def dr_grpo_rows(rows: Sequence[Row]) -> RowCredit:
    """A trajectory's reward, less its group's mean; that of a lone one as it is."""
    said = []
    for leaves in judged_leaves(rows).values():
        middle = mean([rows[leaf].reward for leaf in leaves]) if len(leaves) > 1 else 0.0
        said += [(leaf, rows[leaf].reward - middle) for leaf in leaves]
    return RowCredit(None, along_paths(rows, said))


def rloo_rows(rows: Sequence[Row]) -> RowCredit:
    """A trajectory's reward, less the mean of the others'; that of a lone one as it is."""
    said = []
    for leaves in judged_leaves(rows).values():
        total, others = sum(rows[leaf].reward for leaf in leaves), len(leaves) - 1
        for leaf in leaves:
            reward = rows[leaf].reward
            said.append((leaf, reward - (total - reward) / others if others else reward))
    return RowCredit(None, along_paths(rows, said))


def opo_rows(rows: Sequence[Row]) -> RowCredit:
    """A trajectory's reward, less its group's mean by length; that of a lone one as it is, 0 among equals."""
    said = []
    for leaves in judged_leaves(rows).values():
        rewards = [rows[leaf].reward for leaf in leaves]
        if len(leaves) == 1 or alike(rewards):
            said += [(leaf, rewards[0] if len(leaves) == 1 else 0.0) for leaf in leaves]
            continue
        lengths = [sum(len(rows[step].tokens) for step in path(rows, leaf)) for leaf in leaves]
        if sum(lengths) > 0:
            middle = sum(length * reward for length, reward in zip(lengths, rewards, strict=True)) / sum(lengths)
            said += [(leaf, reward - middle) for leaf, reward in zip(leaves, rewards, strict=True)]
    return RowCredit(None, along_paths(rows, said))


def r3l_rows(rows: Sequence[Row]) -> RowCredit:
    """Reward less mean, times 3 if not negative, 1 for a full success; steps of several trajectories are masked."""
    said, through = [], [0] * len(rows)
    for leaves in judged_leaves(rows).values():
        baseline = mean([rows[leaf].reward for leaf in leaves]) if len(leaves) > 1 else 0.0
        for leaf in leaves:
            score = rows[leaf].reward - baseline
            if rows[leaf].reward >= 1.0:
                score = 1.0
            elif score >= 0:
                score *= 3.0
            said.append((leaf, score))
            for step in path(rows, leaf):
                through[step] += 1
    advantage = along_paths(rows, said)
    shared = [0.0 if often > 1 else step for step, often in zip(advantage, through, strict=True)]
    return RowCredit(None, shared, [often == 1 for often in through])
