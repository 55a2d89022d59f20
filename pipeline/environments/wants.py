"""What whoever plays asks for: a generator yields it, and is sent what came of it. Knows no environment, no engine."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.generation.engine import Sampling
from pipeline.store.ledger import Entry


class Draw(NamedTuple):
    """A turn that a policy is asked for. prompt: `[P]` int32. Its entry in the ledger comes of it."""

    prompt: np.ndarray
    sampling: Sampling
    sample: int


class Act(NamedTuple):
    """What is to be done where it may take its time. A `Done` comes of it."""

    run: Callable[[], Any]


class Done(NamedTuple):
    """What came of an act. error: what it raised, in words; None where it did not."""

    value: Any
    error: str | None = None


class Together(NamedTuple):
    """What is to be played side by side. What each returned comes of it, in their order, once all have ended.
    parts: one or more.
    """

    parts: Sequence[Playing]


Playing = Generator[Draw | Act | Together, Entry | Done | list, Any]
