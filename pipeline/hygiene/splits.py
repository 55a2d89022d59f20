"""Splits by group: all tasks that read nearly the same are on one side. Knows no table."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np


def held_out_groups(groups: Sequence[str], *, share: float, seed: int = 0) -> np.ndarray:
    """`[N]` bool: whether each task is put aside, by a hash of its group alone.

    A task stays on its side however many others come and go.

    Args:
        groups: of the tasks.
        share: of the groups that are put aside, about.
        seed: another one is another split.
    """
    salt, limit = seed.to_bytes(8, "little"), share * 2.0**64
    drawn = {
        group: int.from_bytes(blake2b(group.encode(), digest_size=8, salt=salt).digest(), "little") < limit
        for group in dict.fromkeys(groups)
    }
    return np.array([drawn[group] for group in groups], bool)
