"""Questions that take several passages to answer, over a world made from a seed; see `pipeline.tools.corpus.world`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.errors import BadConfig, check_counts
from pipeline.tasks.row import TaskRow
from pipeline.tools.corpus.questions import Chain, draw_chains
from pipeline.tools.corpus.world import World, WorldOptions, make_world
from schemas.words import SPLITS

VERIFIER = "words"
MORE = {"train": "give sizes a train", "held_out": "give sizes a held_out"}
"""What to change in a band that has no task of a split."""


@dataclass(frozen=True, slots=True)
class Options:
    """hops: passages that a question takes, 1 to 4.

    sizes: tasks by split.
    world: options of the world (`WorldOptions`), those of the tool that searches it.
    seed:  of which questions are drawn.

    Raises:
        BadConfig: hops is out of range, sizes name no split, or the world has other options.
    """

    hops: int
    sizes: dict[str, int]
    world: dict[str, int] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(self, hops=1, seed=0)
        if self.hops > 4:
            raise BadConfig(f"hops is {self.hops}", remedy="give at most 4")
        if unknown := sorted(self.sizes.keys() - set(SPLITS)):
            raise BadConfig(f"sizes name a split {unknown[0]!r}", remedy=f"the splits are {' and '.join(SPLITS)}")
        try:
            WorldOptions(**self.world)
        except TypeError as error:
            raise BadConfig(f"world: {error}", remedy="correct its options") from error


def read(options: Options, *, base: object = None) -> Iterator[TaskRow]:
    """The tasks of a band. Their info has the ids of the passages that they need, the relations that lead there, and
    calls of the search that find them.

    Raises:
        BadConfig: the world does not have so many questions.
    """
    world = make_world(WorldOptions(**options.world))
    for split, size in options.sizes.items():
        chains = draw_chains(world, hops=options.hops, split=split, size=size, seed=options.seed)
        if len(chains) < size:
            raise BadConfig(
                f"the world has {len(chains)} {split} questions of {options.hops} hops, not {size}",
                remedy="lower sizes, or give the world more towns",
            )
        for chain in chains:
            yield TaskRow(
                split=split,
                question=chain.question,
                answer=chain.answer,
                reference_solution=chain.solution,
                info=json.dumps(
                    {"passages": chain.passages, "relations": chain.relations, "calls": _calls(world, chain)}
                ),
            )


def _calls(world: World, chain: Chain) -> list[dict]:
    """A search for what each passage is about."""
    names = [world.entities[passage].name for passage in chain.passages]
    return [{"name": "search", "arguments": {"query": name}} for name in names]
