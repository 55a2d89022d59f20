"""Cuts an answer into steps at a separator, on exact token borders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Step(NamedTuple):
    """Tokens `start` to `end` of an answer; the separator's tokens belong to the step it closes.

    text: without separators at its ends and without control tokens.
    """

    start: int
    end: int
    text: str


def cut_steps(
    token_ids: np.ndarray, separator: str, *, closers: np.ndarray, decode: Callable[[Sequence[int]], str]
) -> list[Step]:
    """The steps of an answer, in order; together they are all of its tokens.

    A step ends with the token that completes the separator, provided some text came before it; blank
    stretches go to the step that follows. Tokens that hold the separator and more belong whole to the
    step they close.

    Args:
        token_ids: `[T]` int32.
        separator: such as a line break.
        closers: `[V]` bool, the ids whose text may complete the separator.
        decode: tokens to text.

    Returns:
        One or more steps; none where there are no tokens.
    """
    steps: list[Step] = []
    start = 0
    known = token_ids < len(closers)
    for position in np.flatnonzero(known & closers[np.where(known, token_ids, 0)]).tolist():
        text = decode(token_ids[start : position + 1].tolist())
        if separator in text.lstrip() and text.strip():
            steps.append(Step(start, position + 1, _bare(text, separator)))
            start = position + 1
    if start < len(token_ids):
        text = decode(token_ids[start:].tolist())
        if steps and not text.strip():
            last = steps.pop()
            steps.append(Step(last.start, len(token_ids), last.text))
        else:
            steps.append(Step(start, len(token_ids), _bare(text, separator)))
    return steps


def _bare(text: str, separator: str) -> str:
    while text.startswith(separator):
        text = text.removeprefix(separator)
    while text.endswith(separator):
        text = text.removesuffix(separator)
    return text
