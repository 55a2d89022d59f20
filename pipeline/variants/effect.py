"""What a change is worth: the success of continuations with it less that of continuations without it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipeline.statistics import wilson
from pipeline.variants.intervene import Continuations


class Effect(NamedTuple):
    """A difference of two shares and its 95 % interval, all in [-1, 1]."""

    effect: float
    low: float
    high: float


def effect_of(changed: Continuations, original: Continuations) -> Effect | None:
    """The success rate with a change less that without it; None where an arm has no judged continuation.

    Source: Newcombe (1998), method 10: the interval is put together from Wilson's of the two shares, so it stays in
        [-1, 1] and has a width where an arm is all right or all wrong.
    """
    if not changed.count or not original.count:
        return None
    shares = np.array([changed.accuracy, original.accuracy])
    low, high = wilson([changed.successes, original.successes], [changed.count, original.count])
    below, above = shares - low, high - shares
    effect = float(shares[0] - shares[1])
    return Effect(effect, effect - float(np.hypot(below[0], above[1])), effect + float(np.hypot(above[0], below[1])))
