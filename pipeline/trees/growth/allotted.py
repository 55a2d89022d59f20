"""A flat group whose size is each task's own, as a budget gave it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.trees.draft import Draft
from pipeline.trees.growth.flat import Flat
from pipeline.trees.strategy import Growing


@dataclass(frozen=True, slots=True)
class Allotted:
    """counts: samples by task. group: of a task that is not in it."""

    counts: Mapping[str, int] = field(default_factory=dict)
    group: int = 8
    temperature: float = 1.0
    top_p: float = 1.0

    needs_rewards = False
    by_step = True

    def grow(self, draft: Draft) -> Growing:
        """Sample the prompt."""
        yield from Flat(self.counts.get(draft.task, self.group), self.temperature, self.top_p).grow(draft)
