"""P2T: a flat group whose answers share the tokens that they begin with alike."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.trees.draft import Draft
from pipeline.trees.growth.flat import Flat
from pipeline.trees.merging import merge_prefixes
from pipeline.trees.strategy import Growing


@dataclass(frozen=True, slots=True)
class P2t:
    """group: samples a task. They are those of the flat group, so those that the ledger has are not drawn again.

    An answer that is another's double is no leaf of its own: a node stands for both. Where credit needs every verdict
    of a group, credit the flat group; methods that read prefixes find them there as well.

    Source: TEMPO (2025), prefix-to-tree.
    """

    group: int = 8
    temperature: float = 1.0
    top_p: float = 1.0

    needs_rewards = False
    by_step = True

    def grow(self, draft: Draft) -> Growing:
        """Sample the prompt, then merge what came."""
        yield from Flat(self.group, self.temperature, self.top_p).grow(draft)
        draft.pieces[:] = merge_prefixes(draft).pieces
