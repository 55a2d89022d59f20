"""A world made from a seed: towns on rivers, guilds with a seat, people with teachers; a passage for each.

It has two regions that know nothing of each other, one a split: no name is in both, no passage of one names anything of
the other, and one corpus holds them all. A passage says what is true of its own entity alone: what it points to, never
what points to it. So an answer some passages away can be had only by way of those between.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from pipeline.errors import BadConfig, check_counts
from pipeline.tools.corpus.names import Names
from pipeline.tools.corpus.passages import Passage
from schemas.words import SPLITS

MOST_TOWNS = 300


@dataclass(frozen=True, slots=True)
class WorldOptions:
    """seed of the world; how many towns its larger region has, train's. The other has half of them.

    Raises:
        BadConfig: there are too few towns for people to be born in, or more than there are names for.
    """

    seed: int = 1
    towns: int = 40

    def __post_init__(self) -> None:
        check_counts(self, of="world", seed=0, towns=8)
        if self.towns > MOST_TOWNS:
            raise BadConfig(f"world towns is {self.towns}", remedy=f"give at most {MOST_TOWNS}")


class Entity(NamedTuple):
    """Something with a passage.

    kind:  town, river, guild or person.
    facts: by the name of a relation, an entity's id or a plain value.
    """

    id: str
    kind: str
    name: str
    split: str
    facts: Mapping[str, str]


class World(NamedTuple):
    """entities: by id. passages: one each, under the same ids, in an order that tells nothing."""

    entities: Mapping[str, Entity]
    passages: tuple[Passage, ...]

    def text(self, entity: Entity, relation: str) -> str:
        """What a relation of an entity leads to, as it is written: a name, a year, a number."""
        found = entity.facts[relation]
        return self.entities[found].name if found in self.entities else found


@lru_cache(maxsize=4)
def make_world(options: WorldOptions) -> World:
    """The world of a seed; the same wherever it is made."""
    chance = random.Random(f"world {options.seed} {options.towns}")
    names = Names(chance)
    entities: dict[str, Entity] = {}
    for split, towns in zip(SPLITS, (options.towns, options.towns // 2), strict=True):
        _Region(split, towns, entities, names, chance).fill()
    world = World(entities, ())
    passages = [Passage(entity.id, entity.name, _passage(world, entity, chance)) for entity in entities.values()]
    chance.shuffle(passages)
    return world._replace(passages=tuple(passages))


class _Region:
    """Draws one split's entities, so that nothing comes before what it stands on: teachers are older, towns oldest."""

    def __init__(self, split: str, towns: int, entities: dict[str, Entity], names: Names, chance: random.Random):
        self._split, self._towns = split, towns
        self._entities, self._names, self._chance = entities, names, chance

    def fill(self) -> None:
        rivers = [self._add("river", **self._river()) for _ in range(self._towns // 3)]
        towns = [self._add("town", **self._town(rivers)) for _ in range(self._towns)]
        founders = [self._add("person", **self._person(towns, 1100 + 5 * i)) for i in range(self._towns // 2)]
        guilds = [self._add("guild", **self._guild(founder, towns)) for founder in founders]
        for founder, guild in zip(founders, guilds, strict=True):
            self._entities[founder] = self._extended(founder, guild=guild)
        people = list(founders)
        for number in range(2 * self._towns):
            born = 1200 + 5 * self._towns // 2 + number * 200 // self._towns
            facts = self._person(towns, born) | {"teacher": self._teacher(people, born), "guild": self._pick(guilds)}
            people.append(self._add("person", **facts))

    def _river(self) -> dict[str, str]:
        return {"length": str(self._chance.randrange(40, 900)), "source": f"Mount {self._names.draw('mountain')}"}

    def _town(self, rivers: list[str]) -> dict[str, str]:
        return {"river": self._pick(rivers), "founded": str(self._chance.randrange(700, 1050))}

    def _person(self, towns: list[str], born: int) -> dict[str, str]:
        return {"birthplace": self._pick(towns), "born": str(born + self._chance.randrange(5))}

    def _guild(self, founder: str, towns: list[str]) -> dict[str, str]:
        home, born = (self._entities[founder].facts[relation] for relation in ("birthplace", "born"))
        seat = self._pick([town for town in towns if town != home])
        return {"founder": founder, "founded": str(int(born) + self._chance.randrange(28, 55)), "seat": seat}

    def _teacher(self, people: list[str], born: int) -> str:
        """One old enough; of those, one of the forty youngest."""
        older = [one for one in people if int(self._entities[one].facts["born"]) <= born - 20]
        return self._pick(older[-40:])

    def _pick(self, ids: list[str]) -> str:
        return ids[self._chance.randrange(len(ids))]

    def _add(self, kind: str, **facts: str) -> str:
        number = len(self._entities)
        self._entities[f"p{number:04d}"] = Entity(f"p{number:04d}", kind, self._names.draw(kind), self._split, facts)
        return f"p{number:04d}"

    def _extended(self, id: str, **facts: str) -> Entity:
        entity = self._entities[id]
        return entity._replace(facts={**entity.facts, **facts})


_WORDINGS: dict[str, tuple[str, ...]] = {
    "river": (
        "The {name} is a river of {length} kilometres. It rises on {source} and {more}.",
        "Rising on {source}, the {name} runs for {length} kilometres before it meets the sea; it {more}.",
    ),
    "town": (
        "{name} is a market town on the {river}. It was founded in {founded} and {more}.",
        "Founded in {founded}, {name} lies where the {river} bends. The town {more}.",
    ),
    "guild": (
        "The {name} was founded in {founded} by {founder}. It had its seat in {seat} and {more}.",
        "With its seat in {seat}, the {name} {more}. {founder} founded it in {founded}.",
    ),
    "founder": (
        "{name}, born in {birthplace} in {born}, led the {guild} and {more}.",
        "{name} was a master of the {guild}, and {more}. The master was born in {birthplace} in {born}.",
    ),
    "person": (
        "{name} was born in {birthplace} in {born}, learnt the craft from {teacher}, and joined the {guild}. "
        "The pupil {more}.",
        "A pupil of {teacher} and a member of the {guild}, {name} {more}. Birthplace: {birthplace}, in {born}.",
    ),
}
_MORE: dict[str, tuple[str, ...]] = {
    "river": ("freezes in hard winters", "is known for its trout", "floods the meadows in spring", "drives many mills"),
    "town": (
        "holds a fair each autumn",
        "is known for its bridge",
        "burned once and was rebuilt in stone",
        "trades wool",
    ),
    "guild": ("kept a school", "trained many apprentices", "lent its hall for weddings", "guarded its patterns"),
    "person": ("kept bees", "wrote letters that are still read", "walked everywhere", "left a chest of drawings"),
}


def _passage(world: World, entity: Entity, chance: random.Random) -> str:
    wording = "founder" if entity.kind == "person" and "teacher" not in entity.facts else entity.kind
    told = {relation: world.text(entity, relation) for relation in entity.facts}
    return chance.choice(_WORDINGS[wording]).format(name=entity.name, more=chance.choice(_MORE[entity.kind]), **told)
