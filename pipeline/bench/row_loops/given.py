"""Loops of the methods that are given what models, judges or people say of steps and runs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from pipeline.bench.row_loops.rows import (
    SAME,
    Row,
    RowCredit,
    all_leaves,
    along_said,
    at_said,
    at_tokens,
    expected,
    is_said,
    judged_leaves,
    judged_runs,
    mean,
    of_tokens,
    path,
    spoken_path,
    spoken_tokens,
    verl_scale,
)

JUDGED = (("goal", 0.0), ("relationship", -5.0), ("knowledge", 0.0))
"""Dimensions of a dialogue and the least score of each, 10 below the best."""


def malt_rows(rows: Sequence[Row]) -> RowCredit:
    """A leaf is worth its reward, any other the mean of its children; good is a full reward, or more than one half."""
    children: list[list[int]] = [[] for _ in rows]
    for place, row in enumerate(rows):
        if row.parent >= 0:
            children[row.parent].append(place)
    values: list[float | None] = [row.reward for row in rows]
    for place in reversed(range(len(rows))):
        below = [values[child] for child in children[place] if values[child] is not None]
        if below:
            values[place] = mean(below)
    labels: list[float | None] = []
    for row, value in zip(rows, values, strict=True):
        good = row.reward >= 1 if row.reward is not None else value is not None and value > 0.5 + 1e-9
        known = None if value is None else float(good)
        labels.append(known if is_said(row) else 0.0)
    return RowCredit(values, labels, [label == 1 for label in labels])


def search_r2_rows(rows: Sequence[Row]) -> RowCredit:
    """A right answer earns one plus the share of useful passages, a wrong one nothing; beside its group's."""
    earned, said = [], []
    for leaves in judged_leaves(rows).values():
        if rows[leaves[0]].parent < 0:
            continue  # a task that nobody went on from
        rewards = []
        for leaf in leaves:
            passages = [flag for step in path(rows, leaf) for flag in json.loads(rows[step].useful or "[]")]
            right = rows[leaf].reward >= 1
            rewards.append(right * (1.0 + (mean(passages) if passages else 0.0)))
        middle, spread = verl_scale(rewards)
        earned += list(zip(leaves, rewards, strict=True))
        said += [(leaf, (reward - middle) / spread) for leaf, reward in zip(leaves, rewards, strict=True)]
    return RowCredit(expected(rows, earned), along_said(rows, said))


def adasearch_rows(rows: Sequence[Row]) -> RowCredit:
    """A run that decides to search, or not to, as the closed-book runs say is right earns 1; beside its group's."""
    earned, said = [], []
    for leaves in all_leaves(rows).values():
        closed = [rows[leaf].reward for leaf in leaves if rows[leaf].closed_book == 1]
        told = rows[rows[path(rows, leaves[0])[0]].parent].closed_book
        samples = [reward for reward in (*closed, told) if reward is not None]
        if not samples:
            continue
        right = float(mean(samples) < 1)
        runs = [leaf for leaf in leaves if rows[leaf].closed_book != 1 and rows[leaf].searched is not None]
        rewards = [float(rows[leaf].searched == right) for leaf in runs]
        if runs:
            middle, spread = verl_scale(rewards)
            earned += list(zip(runs, rewards, strict=True))
            said += [(leaf, (reward - middle) / spread) for leaf, reward in zip(runs, rewards, strict=True)]
    return RowCredit(expected(rows, earned), along_said(rows, said))


def epo_rows(rows: Sequence[Row]) -> RowCredit:
    """What key turns and the score at the end leave at a turn, over the most that they leave at one of the episode."""
    left, weights = [], []
    for leaves in judged_leaves(rows).values():
        for leaf in leaves:
            turns, later, said = spoken_path(rows, leaf), 0.0, []
            for turn in reversed(turns):
                reward = rows[leaf].reward if turn == turns[-1] else 0.0
                later = (1.0 if rows[turn].key_turn == 1 else reward) + 0.99 * later
                said.append((turn, later))
            most = max((abs(value) for _, value in said), default=0.0)
            left += said
            weights += [(turn, value / most if most else 0.0) for turn, value in said]
    return RowCredit(at_said(rows, left, unsaid=None), at_said(rows, weights))


def archer_rows(rows: Sequence[Row]) -> RowCredit:
    """The critic's value of saying the step, less that of the state before it."""
    values: list[float | None] = [row.critic_q if is_said(row) else None for row in rows]
    advantages: list[float | None] = []
    for row in rows:
        if not is_said(row):
            advantages.append(0.0)
        elif None in (row.critic_q, row.critic_v):
            advantages.append(None)
        else:
            advantages.append(row.critic_q - row.critic_v)
    return RowCredit(values, advantages)


def lare_rows(rows: Sequence[Row]) -> RowCredit:
    """The decoder's reward of the step; a node is worth the sum of rewards of the episodes through it."""
    returns = []
    for leaves in all_leaves(rows).values():
        for leaf in leaves:
            rewards = [rows[step].latent_reward for step in spoken_path(rows, leaf)]
            if None not in rewards:
                returns.append((leaf, sum(rewards)))
    known = [(place, row.latent_reward) for place, row in enumerate(rows) if row.latent_reward is not None]
    return RowCredit(expected(rows, returns), at_said(rows, known))


def t_reg_rows(rows: Sequence[Row]) -> RowCredit:
    """How far the chance of a token, as one of a better response and not of a worse one, stands from one half."""
    said = []
    for row in rows:
        pairs = zip(row.better_logprobs, row.worse_logprobs, strict=True)
        rewards = [None if None in pair else _sigmoid(pair[0] - pair[1]) - 0.5 for pair in pairs]
        said.append(rewards if is_said(row) else [0.0] * len(row.tokens))
    return RowCredit(None, of_tokens(rows, said), token_advantages=said)


def hicra_rows(rows: Sequence[Row]) -> RowCredit:
    """A trajectory's reward less its group's mean, which is raised by a fifth of its size in planning phrases."""
    earned = []
    for leaves in judged_leaves(rows).values():
        middle = mean([rows[leaf].reward for leaf in leaves]) if len(leaves) > 1 else 0.0
        for leaf in leaves:
            base = rows[leaf].reward - middle
            for step, place in spoken_tokens(rows, leaf):
                plans = rows[step].planning[place]
                if plans is not None:
                    earned.append((step, place, base + 0.2 * abs(base) if plans > 0 else base))
    said = at_tokens(rows, earned)
    return RowCredit(None, of_tokens(rows, said), token_advantages=said)


def adaptive_reasoning_rows(rows: Sequence[Row]) -> RowCredit:
    """A right answer earns more in the mode that suits its task, a long one less; beside its group's."""
    earned, said = [], []
    for leaves in judged_runs(rows).values():
        runs = [leaf for leaf in leaves if rows[leaf].long_thinking is not None]
        short = [float(rows[leaf].reward >= 0.5) for leaf in runs if rows[leaf].long_thinking == 0]
        simple = (mean(short) if short else 0.0) >= 0.5 - SAME
        totals = [_mode_reward(rows, leaf, simple) for leaf in runs]
        if runs:
            middle, spread = verl_scale(totals)
            earned += list(zip(runs, totals, strict=True))
            said += [(leaf, (total - middle) / spread) for leaf, total in zip(runs, totals, strict=True)]
    return RowCredit(expected(rows, earned), along_said(rows, said))


def _mode_reward(rows: Sequence[Row], leaf: int, simple: bool) -> float:
    reward = -1.0
    if rows[leaf].reward >= 0.5:
        reward = 1.5 if simple == (rows[leaf].long_thinking == 0) else 1.0
    over = (len(spoken_tokens(rows, leaf)) - 0.8 * 8192) / (0.2 * 8192)
    return reward - 0.5 * min(1.0, max(0.0, over)) if rows[leaf].long_thinking == 1 else reward


def sotopia_rl_rows(rows: Sequence[Row]) -> RowCredit:
    """The mean over goal, relationship and knowledge of a third of the attribution times the dialogue's score, in the
    range of the dimension."""
    said = []
    for leaves in all_leaves(rows).values():
        for leaf in leaves:
            utterances = spoken_path(rows, leaf)
            scores = [getattr(rows[leaf], f"score_{name}") for name, _ in JUDGED]
            told = [[getattr(rows[step], f"attribution_{name}") for step in utterances] for name, _ in JUDGED]
            if None in scores or any(set(column) <= {None} for column in told):
                continue
            for place, step in enumerate(utterances):
                parts = []
                for (_, low), score, column in zip(JUDGED, scores, told, strict=True):
                    given = column[place] or 0.0
                    reward = -1.0 if given == -1 else given / 3 * score
                    parts.append((reward - low) / 10)
                said.append((step, mean(parts)))
    return RowCredit(None, at_said(rows, said))


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))
