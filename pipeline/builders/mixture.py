"""Which rows of several sources make a mixture of given shares, balanced within each. Knows no table.

Rows are drawn by a hash of their own name, so the same rows are taken whatever else is there, and on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np


def row_keys(rows: Iterable[str], *, seed: int = 0) -> np.ndarray:
    """`[N]` uint64, one for each name: the order in which rows are taken."""
    salt = seed.to_bytes(8, "little")
    digests = b"".join(blake2b(row.encode(), digest_size=8, salt=salt).digest() for row in rows)
    return np.frombuffer(digests, "<u8")


def lowest(keys: np.ndarray, count: int) -> np.ndarray:
    """`[N]` bool: the `count` lowest keys, ties by place."""
    kept = np.zeros(len(keys), bool)
    kept[np.argsort(keys, kind="stable")[:count]] = True
    return kept


def balanced(keys: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """`[N]` bool: as many rows of side 1 as of side -1, the lowest keys of the larger one; all of side 0."""
    kept = sides == 0
    parts = [np.flatnonzero(sides == side) for side in (1, -1)]
    most = min(map(len, parts))
    for part in parts:
        kept[part[lowest(keys[part], most)]] = True
    return kept


def shared_out(counts: Sequence[int], shares: Sequence[float]) -> list[int]:
    """How many rows of each source make the largest mixture of these shares.

    Args:
        counts: rows there are of each source.
        shares: in any unit; 0: all rows, aside from the mixture.

    Returns:
        Rows of each; of the one that limits the mixture all of them.
    """
    limits = [count / share for count, share in zip(counts, shares, strict=True) if share > 0]
    total = min(limits, default=0.0)
    return [
        min(count, round(total * share)) if share > 0 else count for count, share in zip(counts, shares, strict=True)
    ]
