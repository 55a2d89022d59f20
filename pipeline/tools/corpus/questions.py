"""Questions of several hops over a world: each follows its relations from one passage to the next, to one answer."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from itertools import zip_longest
from typing import NamedTuple

from pipeline.tools.corpus.world import Entity, World

LINKS = {
    "birthplace": "the town where {} was born",
    "teacher": "the teacher of {}",
    "guild": "the guild that {} belonged to",
    "seat": "the town where {} had its seat",
    "founder": "the founder of {}",
    "river": "the river that flows through {}",
}
"""How a question names what a relation leads to."""
ASKED = {
    "birthplace": "In which town was {} born?",
    "teacher": "Who was the teacher of {}?",
    "guild": "Which guild did {} belong to?",
    "seat": "In which town was the seat of {}?",
    "founder": "Who was the founder of {}?",
    "river": "Which river flows through {}?",
    "source": "On which mountain is the source of {}?",
    "length": "How many kilometres long is {}?",
    "founded": "What is the founding year of {}?",
    "born": "What is the year of birth of {}?",
}
"""How a question asks for what its last relation leads to."""
_STATED = {
    "birthplace": "{} was born in {}.",
    "teacher": "{} learnt from {}.",
    "guild": "{} belonged to the {}.",
    "seat": "{} had its seat in {}.",
    "founder": "{} was founded by {}.",
    "river": "{} lies on the {}.",
    "source": "{} rises on {}.",
    "length": "{} is {} kilometres long.",
    "founded": "{} was founded in {}.",
    "born": "{} was born in {}.",
}


class Chain(NamedTuple):
    """A question, its answer, and how the one follows from the other.

    relations: from the entity that the question names to the answer.
    passages:  ids of those that say so, in the order in which they are needed, one a relation.
    solution:  a sentence a passage, then the answer.
    """

    question: str
    answer: str
    relations: tuple[str, ...]
    passages: tuple[str, ...]
    solution: str


def draw_chains(world: World, *, hops: int, split: str, size: int, seed: int) -> list[Chain]:
    """Questions of a split, all different, spread evenly over the ways of asking; fewer where there are not so many.

    Only the passages of its chain, all of them, give the answer: none has both what the question names and the answer.
    """
    ways: dict[tuple[str, ...], list[Chain]] = {}
    for chain in _chains(world, hops, split):
        ways.setdefault(chain.relations, []).append(chain)
    chance = random.Random(f"questions {seed} {hops} {split}")
    for found in ways.values():
        chance.shuffle(found)
    turns = zip_longest(*(ways[relations] for relations in sorted(ways)))
    drawn = [chain for turn in turns for chain in turn if chain is not None][:size]
    chance.shuffle(drawn)
    return drawn


def _chains(world: World, hops: int, split: str) -> Iterator[Chain]:
    """Those whose answer stands in the last passage alone, of the chain's and of all that name where it begins."""
    texts = {passage.id: passage.text for passage in world.passages}
    naming: dict[str, list[str]] = {id: [] for id in texts}
    for entity in world.entities.values():
        for found in entity.facts.values():
            if found in naming:
                naming[found].append(entity.id)
    for entity in world.entities.values():
        if entity.split == split:
            for path, relations in _paths(world, entity, hops):
                answer = world.text(path[-1], relations[-1])
                early = (*(one.id for one in path[:-1]), *naming[entity.id])
                if not any(_says(texts[one], answer) for one in early):
                    yield _chain(world, path, relations, answer)


def _paths(world: World, entity: Entity, hops: int) -> Iterator[tuple[tuple[Entity, ...], tuple[str, ...]]]:
    """Ways from an entity over `hops` relations, which come to no entity twice."""
    pending: list[tuple[tuple[Entity, ...], tuple[str, ...]]] = [((entity,), ())]
    while pending:
        path, relations = pending.pop()
        for relation, found in path[-1].facts.items():
            ahead = world.entities.get(found)
            if ahead in path:
                continue
            if len(path) == hops:
                yield path, (*relations, relation)
            elif ahead is not None:
                pending.append(((*path, ahead), (*relations, relation)))


def _says(text: str, answer: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text) is not None


def _chain(world: World, path: tuple[Entity, ...], relations: tuple[str, ...], answer: str) -> Chain:
    named = _with_article(path[0])
    for relation in relations[:-1]:
        named = LINKS[relation].format(named)
    said = [
        _STATED[relation].format(_capital(_with_article(one)), world.text(one, relation))
        for one, relation in zip(path, relations, strict=True)
    ]
    return Chain(
        question=ASKED[relations[-1]].format(named),
        answer=answer,
        relations=relations,
        passages=tuple(one.id for one in path),
        solution="\n".join([*said, f"#### {answer}"]),
    )


def _with_article(entity: Entity) -> str:
    return f"the {entity.name}" if entity.kind in ("guild", "river") else entity.name


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
