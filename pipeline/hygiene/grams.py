"""Texts as words and n-grams, each a number: what near-duplicates and benchmarks are looked for by. Reads no file."""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b

import numpy as np

_WORD = re.compile(r"\w+|[^\w\s]")
"""A word, or a sign on its own: in mathematics a sign is what tells two questions apart."""


def word_codes(text: str) -> np.ndarray:
    """`[W]` uint64, a number for each word or sign, whatever its case."""
    return np.fromiter(map(_code, _WORD.findall(text.casefold())), np.uint64)


def grams(codes: np.ndarray, size: int) -> np.ndarray:
    """`[G]` uint64, the distinct runs of `size` words, sorted; a shorter text is one, an empty one has none."""
    if len(codes) == 0:
        return np.empty(0, np.uint64)
    size = min(size, len(codes))
    windows = np.lib.stride_tricks.sliding_window_view(codes, size)
    factors = np.array([pow(0x9E3779B97F4A7C15, power, 2**64) for power in range(1, size + 1)], np.uint64)
    return np.unique((windows * factors).sum(axis=1, dtype=np.uint64))


@lru_cache(maxsize=2**16)
def _code(word: str) -> int:
    return int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little")
