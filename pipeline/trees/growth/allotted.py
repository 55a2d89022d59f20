"""A flat group whose size is each task's own, as a budget gave it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.errors import BadConfig
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

    def __post_init__(self):
        for task, count in self.counts.items():
            if type(count) is not int or count < 0:
                raise BadConfig(f"allotted counts: task {task} has {count!r}", remedy="give a number of samples from 0")

    def grow(self, draft: Draft) -> Growing:
        """Sample the prompt."""
        yield from Flat(self.counts.get(draft.task, self.group), self.temperature, self.top_p).grow(draft)
