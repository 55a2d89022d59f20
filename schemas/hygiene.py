"""The table of hygiene: what was found about a task before its rows leave the store."""

import dataframely as dy

from schemas.base import Table, one_of
from schemas.words import SPLITS

WITHHELD = ("near_held_out", "benchmark", "secret", "personal")
"""Why rows of a task should not leave: a held-out task reads nearly the same; a benchmark has it; its texts have a
secret, or what points to a person."""


class Hygiene(Table):
    """What was found about a task and the texts grown from it."""

    task = dy.String(primary_key=True, description="The task.")
    suite = dy.String(description="Suite of the task.")
    split = dy.String(regex=one_of(SPLITS), description="Split of the task.")
    source = dy.String(description="Where the task is from.")
    licence = dy.String(nullable=True, description="Licence of that source, as stated. Null: not stated.")
    near_group = dy.String(description="First of the tasks that read nearly the same; itself where it is alone.")
    near_count = dy.Int32(min=1, description="Tasks in that group.")
    similarity = dy.Float32(
        nullable=True, min=0, max=1, description="Jaccard similarity to the closest of them. Null: it is alone."
    )
    benchmark = dy.String(nullable=True, description="Benchmark with most of the task's n-grams. Null: none has any.")
    overlap = dy.Float32(nullable=True, min=0, max=1, description="Share of its n-grams found there. Null: none.")
    secrets = dy.Int32(min=0, description="Secrets found in texts of the task and its nodes.")
    personal = dy.Int32(min=0, description="Addresses, numbers and the like of persons found there.")
    withheld = dy.String(
        nullable=True, regex=one_of(WITHHELD), description="First reason to keep the task's rows back. Null: none."
    )

    @dy.rule()
    def overlap_of_benchmark(cls):
        """A share stands where a benchmark is named."""
        return cls.benchmark.col.is_null().eq(cls.overlap.col.is_null())
