"""Where a shard of a table lies: `<table>/suite=…/round=…/stage=…/<shard>.parquet`. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pipeline.errors import BadConfig, BadTable

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")
"""What a suite, a round, a stage or a shard may be called."""
EVERY_ROUND = "all"
"""Round of what does not change from round to round: the tasks."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """One stage's slice of a suite in a round: the unit of work, of commit and of retry."""

    suite: str
    round: str
    stage: str
    shard: str

    def __post_init__(self):
        for part in (self.suite, self.round, self.stage, self.shard):
            if not NAME.fullmatch(part):
                raise BadConfig(
                    f"{part!r} cannot be the name of a suite, round, stage or shard",
                    remedy="use letters, digits, '_', '-' and '.', at most 80, beginning with a letter or digit",
                )

    def is_of(self, **of: str | None) -> bool:
        """Whether it is of a suite, round, stage or shard; None is any."""
        return all(value is None or getattr(self, part) == value for part, value in of.items())

    def name(self, table: str) -> str:
        """The shard's file in a table, below the root of the store."""
        return f"{table}/suite={self.suite}/round={self.round}/stage={self.stage}/{self.shard}.parquet"

    def path(self, root: Path, table: str) -> Path:
        """The file of this shard in a folder of this machine."""
        return root / self.name(table)


def place_of(name: str) -> Place:
    """The place of a file below the root of the store.

    Raises:
        BadTable: no shard lies there.
    """
    parts = name.split("/")
    keys = [part.partition("=")[0] for part in parts[1:-1]]
    if keys != ["suite", "round", "stage"] or not parts[-1].endswith(".parquet"):
        raise BadTable(f"{name} is not where a shard can be", remedy="move it out of the store")
    try:
        return Place(*(part.partition("=")[2] for part in parts[1:-1]), shard=parts[-1].removesuffix(".parquet"))
    except BadConfig as error:
        raise BadTable(f"{name} is not where a shard can be", remedy="move it out of the store") from error


def by_shard(places: Iterable[Place]) -> Iterator[list[Place]]:
    """Places of one shard in one suite and round together, ordered by their stages."""
    ordered = sorted(places, key=lambda place: (place.suite, place.round, place.shard, place.stage))
    for _, some in groupby(ordered, key=lambda place: (place.suite, place.round, place.shard)):
        yield list(some)
