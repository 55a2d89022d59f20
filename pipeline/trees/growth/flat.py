"""A flat group: samples of the prompt, none of which looks at another."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.generation.engine import Sampling
from pipeline.trees.draft import Ask, Draft
from pipeline.trees.strategy import Growing, gather


@dataclass(frozen=True, slots=True)
class Flat:
    """group: samples a task."""

    group: int = 8
    temperature: float = 1.0
    top_p: float = 1.0

    needs_rewards = False
    by_step = True

    def grow(self, draft: Draft) -> Growing:
        """Sample the prompt."""
        sampling = Sampling(self.temperature, self.top_p, draft.max_tokens)
        yield from gather(Ask(draft.root, sample, sampling) for sample in range(self.group))
