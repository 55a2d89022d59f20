"""The prefix cache of vLLM, counted: which blocks of tokens are there, whose memory they take, which goes first.

A block is known by the one before it and by its own tokens, so equal blocks are equal prefixes; where vLLM compares
hashes of this chain, tokens are compared here. Knows no time and no engine.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

BLOCK_TOKENS = 16
Key = tuple["Block | None", bytes]


class Block:
    """A whole block in the cache. holders: sequences in hand that stand on it; key: of the chain, see above."""

    __slots__ = ("holders", "key")

    def __init__(self, key: Key):
        self.key, self.holders = key, 0


class Lease(NamedTuple):
    """What a sequence has of the cache while it runs.

    cached: tokens of its prompt that need not be computed.
    blocks: the whole blocks of its prompt.
    own:    blocks kept free for the rest of its prompt and for its answer.
    """

    cached: int
    blocks: list[Block]
    own: int


class BlockCache:
    """Blocks by content, the least recently used evicted first.

    As in vLLM: only whole blocks are found, and never the one with the last token of a prompt, which must be computed
    to decode; blocks of a prompt are there for others once it is taken up; of blocks left at once the last of the
    sequence goes first. Otherwise than there: memory for the whole answer is taken at the start, so that no sequence
    is ever preempted, and equal blocks are kept once.

    capacity: blocks in memory. None: nothing is evicted.
    size:     tokens in a block.
    """

    def __init__(self, capacity: int | None = None, *, size: int = BLOCK_TOKENS):
        self._capacity, self._size = math.inf if capacity is None else capacity, size
        self._blocks: dict[Key, Block] = {}
        self._idle: OrderedDict[Block, None] = OrderedDict()
        self._own = 0

    def blocks_for(self, prompt: int, decoded: int) -> int:
        """Blocks that a sequence fills, by its numbers of tokens; the last one decoded is never fed back."""
        return -(-(prompt + decoded - 1) // self._size)

    def take(self, prompt: np.ndarray, *, decoded: int) -> Lease | None:
        """Take up a sequence: find what there is of its prompt, and make room for the rest.

        Args:
            prompt:  `[P]` int32, at least one token.
            decoded: tokens for which there must be room, at least 1.

        Returns:
            None where the sequences in hand leave too little room; then nothing has changed.
        """
        keys, found = self._cut(prompt), []
        for tokens in keys:
            block = self._blocks.get((found[-1] if found else None, tokens))
            if block is None:
                break
            found.append(block)
        total = self.blocks_for(len(prompt), decoded)
        new, idle = total - len(found), sum(block in self._idle for block in found)
        if len(self._blocks) - len(self._idle) + idle + self._own + new > self._capacity:
            return None
        self._hold(found)
        while len(self._blocks) + self._own + new > self._capacity:
            evicted, _ = self._idle.popitem(last=False)
            del self._blocks[evicted.key]
        blocks = self._extend(found, keys)
        self._own += total - len(keys)
        cached = min(len(found), (len(prompt) - 1) // self._size) * self._size
        return Lease(cached, blocks, total - len(keys))

    def give_back(self, lease: Lease, tokens: np.ndarray) -> None:
        """Let go of a sequence; its blocks can be found until they are evicted.

        Args:
            tokens: `[T]` int32, its prompt and those decoded and fed back.
        """
        self._own -= lease.own
        for block in reversed(self._extend(lease.blocks, self._cut(tokens))):
            block.holders -= 1
            if not block.holders:
                self._idle[block] = None

    def _cut(self, tokens: np.ndarray) -> list[bytes]:
        """The tokens of whole blocks."""
        content, width = np.asarray(tokens, dtype=np.int32).tobytes(), 4 * self._size
        return [content[end - width : end] for end in range(width, len(content) + 1, width)]

    def _extend(self, blocks: list[Block], keys: list[bytes]) -> list[Block]:
        """The blocks and those that follow them in a sequence, the latter held; made where they were not there."""
        blocks = list(blocks)
        for tokens in keys[len(blocks) :]:
            key = (blocks[-1] if blocks else None, tokens)
            block = self._blocks.get(key)
            if block is None:
                block = self._blocks[key] = Block(key)
            self._hold((block,))
            blocks.append(block)
        return blocks

    def _hold(self, blocks: Iterable[Block]) -> None:
        for block in blocks:
            block.holders += 1
            self._idle.pop(block, None)
