"""Loops of the methods that credit each token."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.bench.row_loops.rows import (
    Row,
    RowCredit,
    alike,
    at_tokens,
    deviation,
    judged_leaves,
    mean,
    of_tokens,
    path,
    spoken_tokens,
)


def tempo_rows(rows: Sequence[Row]) -> RowCredit:
    """A token earns its group advantage plus the change in V, the mean reward of the responses that begin so."""
    earned, passes = [[0.0] * len(row.tokens) for row in rows], [0] * len(rows)
    reached = [0.0] * len(rows)
    middles: dict[int, float] = {}
    for tree, leaves in judged_leaves(rows).items():
        rewards = [rows[leaf].reward for leaf in leaves]
        middle, same, spread = mean(rewards), alike(rewards), deviation(rewards, ddof=1) + 1e-6
        middles[tree] = middle
        prefixes: dict[tuple[int, int], int] = {}
        total, count = [sum(rewards)], [len(rewards)]
        responses: list[tuple[float, list[int], list[int]]] = []
        for leaf, reward in zip(leaves, rewards, strict=True):
            steps, prefix, begun = path(rows, leaf), 0, []
            for step in steps:
                for token in rows[step].tokens:
                    prefix = prefixes.setdefault((prefix, token), len(total))
                    if prefix == len(total):
                        total.append(0.0)
                        count.append(0)
                    total[prefix] += reward
                    count[prefix] += 1
                    begun.append(prefix)
            responses.append((reward, steps, begun))
        for reward, steps, begun in responses:
            before, place = middle, 0
            for step in steps:
                for token in range(len(rows[step].tokens)):
                    after = total[begun[place]] / count[begun[place]]
                    if not same:
                        earned[step][token] += (reward - middle + after - before) / spread
                    before, place = after, place + 1
                reached[step] += before
                passes[step] += 1

    value: list[float | None] = []
    for node, row in enumerate(rows):
        if row.parent < 0:
            value.append(middles.get(row.tree))
        else:
            value.append(reached[node] / passes[node] if passes[node] else None)
    return _of_tokens(rows, earned, passes)._replace(value=value)


def reinforce_pp_rows(rows: Sequence[Row]) -> RowCredit:
    """The verdict on each token before it, less the mean over all tokens of all trajectories, over the deviation."""
    earned = []
    for leaves in judged_leaves(rows).values():
        earned += [(*token, rows[leaf].reward) for leaf in leaves for token in spoken_tokens(rows, leaf)]
    returns = [reward for _, _, reward in earned]
    if len(returns) < 2 or alike(returns):
        whitened = [0.0] * len(returns)
    else:
        middle, scale = mean(returns), math.sqrt(deviation(returns, ddof=1) ** 2 + 1e-8)
        whitened = [(reward - middle) / scale for reward in returns]
    said = at_tokens(rows, [(step, at, value) for (step, at, _), value in zip(earned, whitened, strict=True)])
    return RowCredit(None, of_tokens(rows, said), token_advantages=said)


def pure_rows(rows: Sequence[Row]) -> RowCredit:
    """Step rewards, weighted by how low they are, and verdicts, both less the others' mean, summed from the end."""
    shaped: list[tuple[list[int], list[float]]] = []
    for leaves in judged_leaves(rows).values():
        shaped += _shaped_rewards(rows, leaves)

    batch: list[tuple[list[int], list[float | None]]] = []
    for steps, rewards in shaped:
        advantages: list[float | None] = []
        later = 0.0
        for reward in reversed(rewards):
            later += reward
            advantages.append(later)
        advantages.reverse()
        place = 0
        for step in steps:
            place += len(rows[step].tokens)
            advantages[place - 1] = None  # closes the step
        batch.append((steps, advantages))
    _whiten(batch)

    earned, passes = [[0.0] * len(row.tokens) for row in rows], [0] * len(rows)
    for steps, advantages in batch:
        place = 0
        for step in steps:
            for token in range(len(rows[step].tokens)):
                earned[step][token] += advantages[place] or 0.0
                place += 1
            passes[step] += 1
    return _of_tokens(rows, earned, passes)


def _shaped_rewards(rows: Sequence[Row], leaves: Sequence[int]) -> list[tuple[list[int], list[float]]]:
    """The steps with tokens of each trajectory of a group that is labelled throughout, and the reward of each token."""
    known = []
    for leaf in leaves:
        steps = [step for step in path(rows, leaf) if len(rows[step].tokens) > 0]
        if all(rows[step].step_soft is not None for step in steps):
            scores = [2.0 * rows[step].step_soft - 1.0 for step in steps]
            lowest = min(scores, default=0.0)
            powers = [math.exp((lowest - score) / 0.1) for score in scores]
            weighted = [score * power / sum(powers) for score, power in zip(scores, powers, strict=True)]
            known.append((steps, weighted, rows[leaf].reward - 1.0))
    total = sum(sum(weighted) for _, weighted, _ in known)
    length = sum(len(rows[step].tokens) for steps, _, _ in known for step in steps)
    solved = sum(verdict for _, _, verdict in known)

    found = []
    for steps, weighted, verdict in known:
        others = length - sum(len(rows[step].tokens) for step in steps)
        baseline = (total - sum(weighted)) / others if others > 0 else 0.0
        rewards: list[float] = []
        for step, reward in zip(steps, weighted, strict=True):
            count = len(rows[step].tokens)
            rewards += [0.0] * (count - 1) + [reward - baseline * (count - 1)]
        if rewards:
            rewards[-1] += verdict - ((solved - verdict) / (len(known) - 1) if len(known) > 1 else 0.0)
        found.append((steps, rewards))
    return found


def _whiten(batch: Sequence[tuple[list[int], list[float | None]]]) -> None:
    """Give all tokens but closing ones mean 0 and variance 1, in place; closing ones take part in the sums as 0."""
    count, total = 0, 0.0
    for _, advantages in batch:
        for advantage in advantages:
            if advantage is not None:
                count += 1
                total += advantage
    if count == 0:
        return
    middle = total / count
    squares = sum(((advantage or 0.0) - middle) ** 2 for _, advantages in batch for advantage in advantages)
    spread = math.sqrt(max(squares / count, 1e-8))
    for _, advantages in batch:
        for place, advantage in enumerate(advantages):
            if advantage is not None:
                advantages[place] = (advantage - middle) / spread


def _of_tokens(rows: Sequence[Row], earned: Sequence[Sequence[float]], passes: Sequence[int]) -> RowCredit:
    """The mean over the trajectories through a node of what each of its tokens earned; 0 in roots."""
    advantage: list[float | None] = []
    token_advantages: list[list[float | None]] = []
    for node, row in enumerate(rows):
        if row.parent < 0:
            advantage.append(0.0)
            token_advantages.append([0.0] * len(row.tokens))
        elif passes[node] == 0:
            advantage.append(None)
            token_advantages.append([None] * len(row.tokens))
        else:
            steps = [step / passes[node] for step in earned[node]]
            advantage.append(mean(steps) if steps else None)
            token_advantages.append(steps)
    return RowCredit(None, advantage, None, token_advantages)
