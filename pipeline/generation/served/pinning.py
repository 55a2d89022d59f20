"""Which server has a prompt's beginning in its cache. Knows no network."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

BLOCK = 16
"""Tokens of a block of vLLM's prefix cache."""
WINDOW = 2 * BLOCK


class Pins:
    """Tells the tasks of a run apart by their first tokens.

    Chat templates and instructions are alike in all prompts and can be longer than the task itself. So what all
    prompts have begun with so far is passed over, in whole blocks, and the tokens after it are the pin. The first few
    tasks of a run teach it that; until then their requests may be spread.
    """

    def __init__(self) -> None:
        self._shared: np.ndarray | None = None

    def pin(self, prompt: np.ndarray) -> bytes:
        """What the requests of a task have in common.

        Args:
            prompt: `[P]` int32 token ids.
        """
        shared = prompt if self._shared is None else self._shared
        count = min(len(prompt), len(shared))
        differing = np.flatnonzero(prompt[:count] != shared[:count])
        self._shared = shared[: differing[0] if len(differing) else count]
        start = len(self._shared) // BLOCK * BLOCK
        return prompt[start : start + WINDOW].tobytes()


def by_preference(urls: Iterable[str], pin: bytes) -> list[str]:
    """Servers in the order in which a pin prefers them.

    A server that goes gives up its own pins alone, to the next of each; one that comes takes its share from all.

    Source: highest random weight (Thaler and Ravishankar, 1998).
    """
    return sorted(urls, key=lambda url: blake2b(url.encode() + b"\n" + pin, digest_size=8).digest(), reverse=True)
