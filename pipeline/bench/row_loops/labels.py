"""Loops of the methods that read what a labeller says of steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.bench.row_loops.rows import (
    SAME,
    Row,
    RowCredit,
    alike,
    along_paths,
    at_nodes,
    deviation,
    is_said,
    judged_leaves,
    judged_runs,
    mean,
    path,
    verl_scale,
)


def capo_rows(rows: Sequence[Row]) -> RowCredit:
    """Twice the outcome, less 1 in a wrong step; compared with all tokens of the group."""
    said = []
    for leaves in judged_leaves(rows).values():
        steps, of_tokens = [], []
        for leaf in leaves:
            for step in path(rows, leaf):
                reward = 2.0 * rows[leaf].reward - (1.0 if rows[step].step_hard == 0 else 0.0)
                steps.append((step, reward))
                of_tokens += [reward] * len(rows[step].tokens)
        if not of_tokens or alike(of_tokens):
            said += [(step, 0.0) for step, _ in steps]
            continue
        middle, spread = mean(of_tokens), deviation(of_tokens, ddof=0) + 1e-8
        said += [(step, (reward - middle) / spread) for step, reward in steps]
    return RowCredit(None, at_nodes(rows, said))


def tp_grpo_rows(rows: Sequence[Row]) -> RowCredit:
    """The outcome, +1 or -1 in its group; less in wrong steps of right answers, 0 in steps a wrong one does not use."""
    said = []
    for leaves in judged_leaves(rows).values():
        outcomes = [1.0 if rows[leaf].reward >= 0.5 else -1.0 for leaf in leaves]
        accuracy, middle = outcomes.count(1.0) / len(outcomes), mean(outcomes)
        spread = deviation(outcomes, ddof=1) + 1e-4
        for leaf, outcome in zip(leaves, outcomes, strict=True):
            scaled = (outcome - middle) / spread
            for step in path(rows, leaf):
                wrong = rows[step].step_hard == 0
                if step == leaf:
                    said.append((step, scaled))
                elif outcome > 0:
                    said.append((step, scaled - accuracy if wrong else scaled))
                else:
                    said.append((step, scaled if wrong else 0.0))
    return RowCredit(None, at_nodes(rows, said))


def clip_delta_rows(rows: Sequence[Row]) -> RowCredit:
    """A tenth of the differences of the clipped scores, and the outcome, from a step on; less the task's mean."""
    said: list[tuple[int, float]] = []
    baselines: dict[int, float] = {}
    for tree, leaves in judged_leaves(rows).items():
        starts = []
        for leaf in leaves:
            steps = path(rows, leaf)
            later: float | None = rows[leaf].reward
            for place in reversed(range(len(steps))):
                if place < len(steps) - 1:
                    shaped = _clipped(rows[steps[place]])
                    if place < len(steps) - 2 and shaped is not None:
                        following = _clipped(rows[steps[place + 1]])
                        shaped = None if following is None else shaped - following
                    later = None if shaped is None or later is None else later + 0.1 * shaped
                if later is not None:
                    said.append((steps[place], later))
            if steps and later is not None:
                starts.append(later)
        baselines[tree] = mean(starts) if len(starts) > 1 else 0.0
    value = at_nodes(rows, said)
    advantage: list[float | None] = []
    for node, row in enumerate(rows):
        if row.parent < 0:
            value[node] = None
            advantage.append(0.0)
        else:
            advantage.append(None if value[node] is None else value[node] - baselines[row.tree])
    return RowCredit(value, advantage)


def _clipped(row: Row) -> float | None:
    return None if row.step_soft is None else min(row.step_soft - 0.5, 0.0)


def trust_grpo_rows(rows: Sequence[Row]) -> RowCredit:
    """GRPO on verdict plus 0.3 times trust times the mean label of a trajectory's labelled steps."""
    said = []
    for leaves in judged_leaves(rows).values():
        thinking = []
        for leaf in leaves:
            labels = [rows[step].step_soft for step in path(rows, leaf) if rows[step].step_soft is not None]
            thinking.append(min(max(mean(labels), 0.0), 1.0) if labels else 0.0)
        scored = list(zip(leaves, thinking, strict=True))
        right = [score for leaf, score in scored if rows[leaf].reward >= 0.5]
        wrong = [score for leaf, score in scored if rows[leaf].reward < 0.5]
        trust = math.exp(min(mean(right) - mean(wrong), 0.0)) if right and wrong else 1.0
        rewards = [rows[leaf].reward + trust * 0.3 * score for leaf, score in scored]
        middle, spread = verl_scale(rewards)
        said += [(leaf, (reward - middle) / spread) for leaf, reward in zip(leaves, rewards, strict=True)]
    return RowCredit(None, along_paths(rows, said))


def vsrm_rows(rows: Sequence[Row]) -> RowCredit:
    """A step is paid the accuracy that it adds to the one before it, or a part of what the next change adds."""
    accuracy = [row.reward if row.step_soft is None else row.step_soft for row in rows]
    said = []
    for leaves in judged_leaves(rows).values():
        for leaf in leaves:
            steps = path(rows, leaf)
            accuracies = [accuracy[step] for step in steps]
            for place, step in enumerate(steps):
                reward = _added(accuracies, place - 1) if place else 0.0
                if reward is not None:
                    said.append((step, reward))
    value = [None if row.parent < 0 else known for row, known in zip(rows, accuracy, strict=True)]
    return RowCredit(value, at_nodes(rows, said))


def _added(accuracies: Sequence[float | None], cut: int) -> float | None:
    """The reward of the step from one accuracy to the next; None where one that decides is unknown."""
    last = len(accuracies) - 1
    ahead = cut
    while ahead < last:
        before, after = accuracies[ahead], accuracies[ahead + 1]
        if before is None or after is None:
            return None
        if abs(after - before) >= 1e-5:
            return (after - before) * 0.7 ** (ahead - cut)
        ahead += 1
        if ahead - cut > 4:
            return 0.0
    return (accuracies[last] - accuracies[cut]) * 0.7 ** (last - cut - 1)


def spo_chain_rows(rows: Sequence[Row]) -> RowCredit:
    """A step earns its label, at the end the verdict, less that of the step before, in its less certain tokens."""
    value: list[float | None] = [None] * len(rows)
    runs = judged_runs(rows)
    for place, row in enumerate(rows):
        if row.parent < 0:
            value[place] = row.step_soft if row.reward is None else row.reward
            if value[place] is None and row.tree in runs:
                value[place] = mean([rows[leaf].reward for leaf in runs[row.tree]])
    on_the_way = {step for leaves in runs.values() for leaf in leaves for step in path(rows, leaf)}
    for place in sorted(on_the_way):
        row = rows[place]
        own = row.step_soft if row.reward is None else row.reward
        value[place] = own if is_said(row) else value[row.parent]
    advantage: list[float | None] = []
    said: list[list[float | None]] = []
    mask = []
    for place, row in enumerate(rows):
        step: float | None = 0.0
        if is_said(row):
            unknown = None in (value[place], value[row.parent])
            step = None if unknown else value[place] - value[row.parent]
        advantage.append(step)
        chances = [None if logprob is None or not is_said(row) else math.exp(logprob) for logprob in row.logprobs]
        said.append([0.0 if chance is None or chance > 0.9 + SAME else step for chance in chances])
        mask.append(any(chance is not None and chance < 0.9 - SAME for chance in chances))
    return RowCredit(value, advantage, mask, said)


def groundedprm_rows(rows: Sequence[Row]) -> RowCredit:
    """A node is worth what rollouts from it and below it earned; the steps of consistent paths are right or wrong."""
    eldest: dict[int, int] = {}
    for place, row in enumerate(rows):
        eldest.setdefault(row.parent, place)
    total, came, labels = [0.0] * len(rows), [0] * len(rows), []
    ways = [path(rows, leaf) for leaves in judged_runs(rows).values() for leaf in leaves]
    for way in ways:
        final = 1.0 if rows[way[-1]].reward >= 1 else -1.0
        first = len(way) - 1  # the node that was expanded; what follows it was simulated
        while first > 0 and eldest[way[first - 1]] == way[first]:
            first -= 1
        reward, node = _rollout_reward([_verdict(rows[step]) for step in way[first + 1 :]], final), way[first]
        while node >= 0:
            total[node] += reward
            came[node] += 1
            reward, node = 0.9 * reward, rows[node].parent
    value = [earned / times if times else None for earned, times in zip(total, came, strict=True)]
    for way in ways:
        labels += _labels(rows, way, value)
    advantage = at_nodes(rows, labels)
    mask = [row.parent >= 0 and label is not None for row, label in zip(rows, advantage, strict=True)]
    return RowCredit(value, advantage, mask)


def _verdict(row: Row) -> float:
    return {1: 1.0, 0: -1.0}.get(row.step_hard, 0.0)


def _rollout_reward(verdicts: Sequence[float], final: float) -> float:
    """The outcome stands for the last verdict; the earlier ones weigh less and less."""
    terms = len(verdicts) - 1
    if terms < 1:
        return final
    return sum(verdicts[place] * (terms - place) / terms for place in range(terms)) / terms + final / terms


def _labels(rows: Sequence[Row], way: Sequence[int], value: Sequence[float | None]) -> list[tuple[int, float]]:
    """1 and -1 for the steps of a path; none where a step's value and its verdict disagree."""
    right, labels = rows[way[-1]].reward >= 1, []
    for step in way:
        verdict = _verdict(rows[step])
        final = 1.0 if right else -1.0
        worth = value[step]
        if worth is None:
            worth = final if step == way[-1] else verdict
        if step == way[-1] and verdict == 0:
            verdict = final
        if abs(worth) <= SAME or worth * verdict <= 0:
            return []
        labels.append((step, 1.0 if worth > 0 else -1.0))
    if not right and (-1.0 in (signs := [label for _, label in labels])):
        error = signs.index(-1.0)
        if 1.0 in signs[error:]:
            labels = labels[: signs.index(1.0, error)]
    return labels
