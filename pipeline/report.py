"""What a stage says when it is done, and while it works. No printing here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple


class Progress(NamedTuple):
    """How far a stage is.

    what:   the thing counted, plural.
    done, total: of those. A total of 0 is not known yet.
    tokens: tokens decoded so far in this call; 0 where none are.
    reused: of those done, found in the ledger.
    seconds: since the stage began.
    cached: share of the prompt tokens sent that the engine had in its cache; None where that is not known.
    cost:   of what was paid in this call; None where nothing has a price.
    """

    stage: str
    what: str
    done: int
    total: int
    tokens: int
    reused: int
    seconds: float
    cached: float | None = None
    cost: float | None = None


OnProgress = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Progress to nobody."""
    del progress


@dataclass(slots=True)
class Report:
    """The outcome of a stage on a suite and round.

    rows:    rows a table now has for this stage.
    numbers: at most a dozen figures with stable names, none of which is a count in `rows`; whole numbers are counts.
    fresh:   shards written now; the rest were current.
    digest:  of all rows, in order of shards.
    notes:   sentences on what the figures do not say.
    """

    stage: str
    suite: str
    round: str
    rows: dict[str, int] = field(default_factory=dict)
    numbers: dict[str, float | int] = field(default_factory=dict)
    fresh: int = 0
    shards: int = 0
    seconds: float = 0.0
    digest: str = ""
    notes: tuple[str, ...] = ()
