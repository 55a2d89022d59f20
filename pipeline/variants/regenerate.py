"""Cut and regenerate (Search-R2): is an attempt accepted, and if not, how much of it is kept.

The discriminator's score is the chance it gives to "right": that of the word it said, or one less it. Where the steps
are judged one by one, an attempt is as good as its worst step, and it is cut before the first that is not accepted.

Source: Search-R2 (2026). The paper's prompts and thresholds are not published.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.variants.answers import read_index, read_object

CUT_KEYS = ("first_flawed_step", "retry_from_step")
"""What a trimmer may call the step that it blames; the first there is counts."""


AROUND = ".!\"'*"
"""What may stand around a judge's word; how likely it was says nothing."""


class Judgement(NamedTuple):
    """score: in [0, 1], lowest of the steps where they were judged. cut: steps to keep; None: the trimmer is asked."""

    score: float
    cut: int | None = None


def chance_of_right(pieces: Sequence[str], logprobs: Sequence[float], *, right: str, wrong: str) -> float | None:
    """What a judge's answer says of the chance that it means `right`.

    Args:
        pieces: the answer's tokens as texts, empty for control tokens; the last word counts.
        logprobs: natural log-probability of each.

    Returns:
        In [0, 1]; None where the last word is neither.
    """
    words = "".join(pieces).split()
    said = words[-1] if words else ""
    word = said.strip(AROUND).lower()
    if word not in (right, wrong):
        return None
    tail, chance = "", 0.0
    for piece, logprob in zip(reversed(pieces), reversed(logprobs), strict=True):
        chance += logprob if piece.strip().strip(AROUND) else 0.0
        tail = piece + tail
        if tail.split()[-1:] == [said]:
            break
    chance = min(1.0, math.exp(chance))
    return chance if word == right else 1.0 - chance


def judge_steps(scores: Sequence[float | None], *, threshold: float) -> Judgement | None:
    """What the scores of the steps say of an attempt; None where none could be read.

    Args:
        scores: of each step given those before it; None: unreadable, passed over.
        threshold: tau; a step of at least this is accepted.
    """
    known = [score for score in scores if score is not None]
    if not known:
        return None
    flawed = (index for index, score in enumerate(scores) if score is not None and score < threshold)
    return Judgement(min(known), next(flawed, None))


def read_cut(text: str, *, steps: int) -> int | None:
    """How many steps of an attempt a trimmer keeps; None where it names none of its steps."""
    found = read_object(text)
    if found is None:
        return None
    cut = read_index(next((found[key] for key in CUT_KEYS if key in found), None))
    return cut if cut is not None and 0 <= cut < steps else None
