"""Loops of the methods that are given log-probabilities under several models."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.bench.row_loops.rows import (
    Row,
    RowCredit,
    all_leaves,
    at_said,
    at_tokens,
    deviation,
    is_said,
    judged_leaves,
    mean,
    of_tokens,
    spoken_path,
)


def r_to_q_rows(rows: Sequence[Row]) -> RowCredit:
    """A token earns a tenth of its log-ratio, a step the sum; its value is what has been earned since the root."""
    said, steps, values = [], [], []
    for row in rows:
        pairs = zip(row.tuned_logprobs, row.reference_logprobs, strict=True)
        rewards = [None if None in pair else 0.1 * (pair[0] - pair[1]) for pair in pairs]
        said.append(rewards if is_said(row) else [0.0] * len(row.tokens))
        steps.append(None if None in said[-1] else sum(said[-1]))
    for leaves in all_leaves(rows).values():
        for leaf in leaves:
            so_far: float | None = 0.0
            for step in spoken_path(rows, leaf):
                so_far = None if None in (so_far, steps[step]) else so_far + steps[step]
                if so_far is not None:
                    values.append((step, so_far))
    return RowCredit(at_said(rows, values, unsaid=None), steps, token_advantages=said)


def implicit_prm_rows(rows: Sequence[Row]) -> RowCredit:
    """What is still to come of log-ratios and of the outcome, each less the mean of the others', whitened."""
    earned: list[tuple[int, int, float]] = []
    for leaves in judged_leaves(rows).values():
        responses = []
        for leaf in leaves:
            path = spoken_path(rows, leaf)
            pairs = [pair for step in path for pair in zip(rows[step].prm_logprobs, rows[step].reference_logprobs)]
            if rows[leaf].parent >= 0 and not any(None in pair for pair in pairs):
                places = [(step, place) for step in path for place in range(len(rows[step].tokens))]
                responses.append((rows[leaf].reward, places, [mine - theirs for mine, theirs in pairs]))
        size = len(responses)
        outcomes = sum(reward for reward, _, _ in responses)
        means = sum(mean(ratios) for _, _, ratios in responses if ratios)
        for reward, places, ratios in responses:
            later = _less_others(reward, outcomes, size)
            for (step, place), ratio in reversed(list(zip(places, ratios, strict=True))):
                later += _less_others(ratio, means, size)
                earned.append((step, place, later))
    values = [value for _, _, value in earned]
    middle = mean(values) if values else 0.0
    spread = (deviation(values, ddof=1) ** 2 + 1e-8) ** 0.5 if len(values) > 1 else 1e-4
    said = at_tokens(rows, [(step, place, (value - middle) / spread) for step, place, value in earned])
    return RowCredit(None, of_tokens(rows, said), token_advantages=said)


def _less_others(value: float, total: float, size: int) -> float:
    return value if size == 1 else (value * size - total) / (size - 1)


def oprl_rows(rows: Sequence[Row]) -> RowCredit:
    """An outcome less its group's mean, and a step's scaled log-ratio less the mean of the group's steps."""
    groups: list[list[tuple[float, list[tuple[int, float]]]]] = []
    for leaves in judged_leaves(rows).values():
        groups.append([])
        for leaf in leaves:
            path = spoken_path(rows, leaf)
            pairs = {
                step: [pair for pair in zip(rows[step].prm_logprobs, rows[step].logprobs) if pair[1] is not None]
                for step in path
            }
            if rows[leaf].parent >= 0 and not any(model is None for some in pairs.values() for model, _ in some):
                ratios = [(step, 0.05 * sum(model - policy for model, policy in some)) for step, some in pairs.items()]
                groups[-1].append((rows[leaf].reward, ratios))
    largest = max((abs(ratio) for group in groups for _, ratios in group for _, ratio in ratios), default=0.0)
    said = []
    for group in groups:
        steps = [ratio / (largest + 1e-6) for _, ratios in group for _, ratio in ratios]
        for reward, ratios in group:
            of_episode = reward - mean([other for other, _ in group])
            said += [(step, of_episode + ratio / (largest + 1e-6) - mean(steps)) for step, ratio in ratios]
    return RowCredit(None, at_said(rows, said))
