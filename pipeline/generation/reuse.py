"""What a prefix cache saves: tokens that are in several requests, and what an engine must compute at least.

Counts tokens of what has been answered; knows no engine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from pipeline.generation.block_cache import BLOCK_TOKENS, BlockCache


class Answered(NamedTuple):
    """A request and what came of it. prompt: `[P]` int32, P at least 1; answer: `[T]` int32."""

    prompt: np.ndarray
    answer: np.ndarray


class Unique(NamedTuple):
    """Different prefixes, by what stands at their end: a token that was decoded in some answer, or one that was not."""

    prompt: int
    decoded: int


def unique_tokens(answered: Iterable[Answered]) -> Unique:
    """Tokens of all prompts and answers, those of a common prefix once.

    What one request decoded and another has in its prompt is decoded; a prompt is whatever never was: tasks, results
    of tools, words put in the policy's mouth.
    """
    paths = sorted((np.concatenate(one).astype(np.int32).tobytes(), len(one.prompt)) for one in answered)
    known = np.zeros(max((len(content) // 4 for content, _ in paths), default=0), dtype=bool)
    before, total, decoded = np.empty(0, np.int32), 0, 0
    for content, start in paths:
        path = np.frombuffer(content, dtype=np.int32)
        shared = _shared(before, path)
        known[shared:] = False
        total += len(path) - shared
        decoded += int((~known[start : len(path)]).sum())
        known[start : len(path)] = True
        before = path
    return Unique(total - decoded, decoded)


def _shared(first: np.ndarray, second: np.ndarray) -> int:
    """Length of the common prefix."""
    length = min(len(first), len(second))
    unlike = first[:length] != second[:length]
    return int(unlike.argmax()) if unlike.any() else length


def least_prefill(answered: Iterable[Answered], *, size: int = BLOCK_TOKENS) -> int:
    """Prompt tokens that an engine computes whose prefix cache never evicts a block.

    Args:
        answered: what a prompt takes from an answer comes after it; the order matters no further.
        size:     tokens in a block of the cache; 1 for a cache of single tokens.
    """
    cache, computed = BlockCache(size=size), 0
    for prompt, answer in answered:
        lease = cache.take(prompt, decoded=max(len(answer), 1))
        computed += len(prompt) - lease.cached
        cache.give_back(lease, np.concatenate((prompt, answer[:-1])))
    return computed
