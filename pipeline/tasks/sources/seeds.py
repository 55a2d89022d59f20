"""Tasks that an environment makes of a seed: a game, a puzzle, a scenario. Only the environment can judge them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.errors import BadConfig
from pipeline.tasks.row import TaskRow
from schemas.words import SPLITS

VERIFIER = "environment"
MORE = {"train": "give sizes and seeds a train", "held_out": "give sizes and seeds a held_out"}
"""What to change in a band that has no task of a split."""


@dataclass(frozen=True, slots=True)
class Options:
    """question: what a task asks; the task's number follows it. sizes and seeds by split, as reasoning-gym has them.

    Raises:
        BadConfig: a split has a size and no seed, or is none, or two splits share a seed.
    """

    question: str
    sizes: dict[str, int]
    seeds: dict[str, int]

    def __post_init__(self) -> None:
        if unknown := sorted((self.sizes.keys() | self.seeds.keys()) - set(SPLITS)):
            raise BadConfig(
                f"sizes or seeds name a split {unknown[0]!r}", remedy=f"the splits are {' and '.join(SPLITS)}"
            )
        if lacking := sorted(self.sizes.keys() - self.seeds.keys()):
            raise BadConfig(f"{lacking[0]} has a size and no seed", remedy="give it one")
        drawn = [seed for split in self.sizes for seed in self._range(split)]
        if len(set(drawn)) < len(drawn):
            raise BadConfig("two splits share seeds", remedy="let seeds lie as far apart as the sizes say")

    def _range(self, split: str) -> range:
        return range(self.seeds[split], self.seeds[split] + self.sizes[split])


def read(options: Options, *, base: object = None) -> Iterator[TaskRow]:
    """The tasks of a band; each has its seed in its info, and its number in its question."""
    for split, size in options.sizes.items():
        for seed in range(options.seeds[split], options.seeds[split] + size):
            yield TaskRow(
                split=split,
                question=f"{options.question} (number {seed})",
                answer="",
                reference_solution=None,
                info=json.dumps({"seed": seed}),
            )
