"""Where a shard of a table lies: `<table>/suite=…/round=…/stage=…/<shard>.parquet`. No I/O but listing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import BadConfig

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")
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
            if not _NAME.fullmatch(part):
                raise BadConfig(
                    f"{part!r} cannot be the name of a suite, round, stage or shard",
                    remedy="use letters, digits, '_', '-' and '.', at most 80, beginning with a letter or digit",
                )

    def path(self, root: Path, table: str) -> Path:
        """The file of this shard in a table."""
        return (
            root
            / table
            / f"suite={self.suite}"
            / f"round={self.round}"
            / f"stage={self.stage}"
            / f"{self.shard}.parquet"
        )


def find_places(
    root: Path, table: str, *, suite: str | None = None, round: str | None = None, stage: str | None = None
) -> list[Place]:
    """The shards a table has, sorted."""
    pattern = f"suite={suite or '*'}/round={round or '*'}/stage={stage or '*'}/*.parquet"
    places = []
    for path in (root / table).glob(pattern):
        parts = dict(part.split("=", 1) for part in path.relative_to(root / table).parts[:-1])
        places.append(Place(**parts, shard=path.stem))
    return sorted(places)
