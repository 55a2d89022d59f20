"""Tasks that an import brought: they stand in the store, and no file has them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.errors import BadConfig
from pipeline.tasks.row import TaskRow

VERIFIER = "math"
MORE = {"train": "import some", "held_out": "import some"}
"""What to change in a band that has no task of a split."""


@dataclass(frozen=True, slots=True)
class Options:
    """There are none."""


def read(options: Options, *, base: object = None) -> Iterator[TaskRow]:
    """Refused: they are read by `branchpoint import` alone.

    Raises:
        BadConfig: always.
    """
    raise BadConfig("the tasks of this suite were imported", remedy="run `branchpoint import` to bring them in again")
