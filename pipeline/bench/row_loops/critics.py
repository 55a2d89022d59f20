"""Loops of the methods that read what a critic or a model's attention says of tokens."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise

from pipeline.bench.row_loops.rows import (
    Row,
    RowCredit,
    all_leaves,
    at_tokens,
    judged_runs,
    mean,
    of_tokens,
    spoken_path,
    spoken_tokens,
    verl_scale,
)


def poad_rows(rows: Sequence[Row]) -> RowCredit:
    """Errors of the critic from a token on: lambda a token, and gamma as well from one action to the next."""
    said = []
    for leaves in all_leaves(rows).values():
        for leaf in leaves:
            following, later = 0.0, 0.0  # the value at the next action, the errors from there on
            for step in reversed(spoken_path(rows, leaf)):
                ahead, decay = rows[step].step_reward + 0.95 * following, 0.95 * 0.95
                for place in reversed(range(len(rows[step].tokens))):
                    own = _number(rows[step].critic_values[place])
                    later = ahead - own + decay * later
                    said.append((step, place, later))
                    ahead, decay = own, 0.95
                if not rows[step].tokens:
                    later *= decay
                following = ahead
    tokens = at_tokens(rows, said)
    return RowCredit(None, of_tokens(rows, tokens), token_advantages=tokens)


def ma_rlhf_rows(rows: Sequence[Row]) -> RowCredit:
    """Generalised advantages of macro actions of five tokens, the last token being one by itself."""
    said = []
    for leaves in judged_runs(rows).values():
        for leaf in leaves:
            sampled = [(step, at) for step, at in spoken_tokens(rows, leaf) if rows[step].logprobs[at] is not None]
            values = [_number(rows[step].critic_values[at]) for step, at in sampled]
            rewards = [
                0.05 * (_number(rows[step].reference_logprobs[at]) - rows[step].logprobs[at]) for step, at in sampled
            ]
            if not sampled:
                continue
            last = len(sampled) - 1
            rewards[last] += min(max(rows[leaf].reward, -2.5), 2.5)
            starts = sorted({*range(0, len(sampled), 5), last})
            following, later = 0.0, 0.0
            for start, end in reversed(list(zip(starts, [*starts[1:], len(sampled)], strict=True))):
                value = mean(values[start:end])
                later = mean(rewards[start:end]) + following - value + 0.95 * later
                said += [(*token, later) for token in sampled[start:end]]
                following = value
    tokens = at_tokens(rows, said)
    counted = [
        [None if logprob is None else token for token, logprob in zip(of_node, row.logprobs, strict=True)]
        for of_node, row in zip(tokens, rows, strict=True)
    ]
    unsampled = [
        [0.0 if logprob is None else token for token, logprob in zip(of_node, row.logprobs, strict=True)]
        for of_node, row in zip(tokens, rows, strict=True)
    ]
    return RowCredit(None, of_tokens(rows, counted), token_advantages=unsampled)


def attention_rhythm_rows(rows: Sequence[Row]) -> RowCredit:
    """A trajectory's advantage beside its group's; one that is not negative is raised in anchors and before them."""
    said = []
    for leaves in judged_runs(rows).values():
        middle, spread = verl_scale([rows[leaf].reward for leaf in leaves])
        for leaf in leaves:
            tokens = spoken_tokens(rows, leaf)
            base = (rows[leaf].reward - middle) / spread
            factors: list[float | None] = [1.0] * len(tokens)
            if base >= 0:
                factors = _amplified(
                    [rows[step].waad[at] for step, at in tokens], [rows[step].fai[at] for step, at in tokens]
                )
            said += [(*token, base * _number(factor)) for token, factor in zip(tokens, factors, strict=True)]
    tokens = at_tokens(rows, said)
    return RowCredit(None, of_tokens(rows, tokens), token_advantages=tokens)


def _amplified(waad: Sequence[float | None], fai: Sequence[float | None]) -> list[float | None]:
    """What the advantage of each token of a response is multiplied by; None for all where one number is missing."""
    seen = range(len(waad) - 10)
    if None in waad or None in [fai[place] for place in seen]:
        return [None] * len(waad)
    jumps = [abs(here - after) for here, after in pairwise(waad)]
    kept = math.ceil(round(0.4 * len(waad), 9))
    preplan = _largest(jumps, range(len(jumps)), kept)
    bonus, introductions = [0.0] * len(waad), set()
    for anchor in _largest(fai, seen, kept):
        window = range(max(0, anchor - 3), anchor)
        strongest = max(window, key=lambda place: (round(jumps[place], 12), place), default=None)
        near = waad[anchor] <= statistics.median(waad)
        if near and strongest is not None and jumps[strongest] >= max(min(jumps[place] for place in preplan), 1e-9):
            introductions.add(strongest)
            bonus[anchor] += 0.5
        else:
            bonus[anchor] += 1.0
    for place in introductions:
        bonus[place] += 0.5
    return [1.0 + 0.5 * one for one in bonus]


def _largest(values: Sequence[float | None], places: range, count: int) -> list[int]:
    """The places of the largest values; of equals the earlier."""
    return sorted(places, key=lambda place: (-round(values[place], 12), place))[:count]


def _number(value: float | None) -> float:
    return math.nan if value is None else value
