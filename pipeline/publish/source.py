"""One round of a suite in a store, streamed as a release lays it out: split by split, in order of tasks, without what
hygiene keeps back.

Knows no folder and no card. What is held is a few row groups and the names of the suite's tasks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.errors import BadConfig, BadTable
from pipeline.hygiene.leaving import DROP, Leaving, leaving
from pipeline.store.batches import merged
from pipeline.store.layout import EVERY_ROUND, Place, by_shard
from pipeline.store.store import Store
from pipeline.store.write import as_arrow, validated
from schemas import TABLES
from schemas.base import row_order
from schemas.words import SPLITS

JUDGES_LAST = "verdicts"
"""Stage whose verdicts stand in place of those other stages gave of the same leaf."""
PLAN = "plan"
"""Policy of `evals` under which forecasts stand; a release holds what was measured."""
KEEP = "keep"
Withheld = Literal["drop", "redact", "keep"]
"""What becomes of tasks that hygiene holds to be withheld: see `pipeline.hygiene.leaving`; under `keep` all leave."""
BATCH_ROWS = 30_000
_LATE = "late"


@dataclass(frozen=True)
class Source:
    """One round of a suite in a store. leaving: by which rows stay behind; None: all leave."""

    store: Store
    suite: str
    round: str
    leaving: Leaving | None = None

    def places(self, table: str) -> list[Place]:
        """The shards of a table; tasks are those of every round."""
        return self.store.places(table, suite=self.suite, round=EVERY_ROUND if table == "tasks" else self.round)

    @cached_property
    def splits(self) -> pl.DataFrame:
        """Columns `task` and `split`.

        Raises:
            BadTable: the suite has no tasks in the store.
        """
        tasks = self.store.read("tasks", self.places("tasks"), columns=["task", "split"])
        if tasks.is_empty():
            raise BadTable(f"suite {self.suite} has no tasks in the store", remedy="write its tasks first")
        return tasks

    def batches(self, table: str, split: str, *, rows: int = BATCH_ROWS) -> Iterator[pa.Table]:
        """Valid rows of a split in the order of their tasks and key, of verdicts those that stand.

        Args:
            rows: about how many a batch has; all its tasks are whole.

        Raises:
            BadTable: a rule is broken, a key occurs twice, or a row's task is not among the suite's.
        """
        if "task" not in TABLES[table].column_names():
            found = [self._measured(table).filter(split=split)]
        else:
            found = (self._of_split(table, some, split) for some in self._read(table, split, rows))
        for some in found:
            kept = some if self.leaving is None else self.leaving.passed(table, some)
            if kept.height:
                yield as_arrow(TABLES[table], validated(table, kept))

    def _measured(self, table: str) -> pl.DataFrame:
        """A table without tasks, which is small: figures measured, not forecast."""
        found = self.store.read(table, self.places(table))
        return found.filter(pl.col("policy") != PLAN) if "policy" in found.columns else found

    def _read(self, table: str, split: str, rows: int) -> Iterator[pl.DataFrame]:
        for cluster in self._clusters(table, split):
            sources = [self._merged(table, shard, rows) for shard in cluster]
            read = sources[0] if len(sources) == 1 else merged(sources, row_order(TABLES[table]))
            yield from map(pl.from_arrow, read)

    def _merged(self, table: str, shard: list[Place], rows: int) -> Iterator[pa.Table]:
        """A shard's rows of all stages."""
        last = [place for place in shard if place.stage == JUDGES_LAST]
        if table != "verdicts" or not last or len(last) == len(shard):
            yield from self.store.batches(table, shard, rows=rows)
            return
        before = [place for place in shard if place not in last]
        key = TABLES[table].primary_key()
        sources = [
            _marked(self.store.batches(table, places, rows=rows), late)
            for places, late in ((before, False), (last, True))
        ]
        for some in merged(sources, [*row_order(TABLES[table]), _LATE]):
            standing = pl.from_arrow(some).filter(pl.col(_LATE) == pl.col(_LATE).max().over(key)).drop(_LATE)
            yield standing.to_arrow().cast(some.drop_columns([_LATE]).schema)

    def _clusters(self, table: str, split: str) -> Iterator[list[list[Place]]]:
        """Shards that have rows of a split, in the order of their tasks; together where their tasks interleave."""
        found = []
        for shard in by_shard(self.places(table)):
            if (_split_named(shard[0].shard) or split) != split:
                continue
            entries = [entry for place in shard if (entry := self.store.entry(table, place)) and entry.rows]
            if entries:
                firsts, lasts = [one.first_task for one in entries], [one.last_task for one in entries]
                found.append((min(firsts), max(lasts), shard))
        cluster, end = [], ""
        for first, last, shard in sorted(found):
            if cluster and first > end:
                yield cluster
                cluster = []
            cluster.append(shard)
            end = max(end, last)
        if cluster:
            yield cluster

    def _of_split(self, table: str, rows: pl.DataFrame, split: str) -> pl.DataFrame:
        """The rows whose task is of the split; each row's own split where the table has one."""
        names = rows.columns
        if "split" not in names:
            rows = rows.join(self.splits, on="task", how="left", maintain_order="left", validate="m:1")
        lost = rows.filter(~pl.col("split").is_in(SPLITS).fill_null(False))
        if lost.height:
            raise BadTable(
                f"{table}: {lost.height} rows are of no known split, the first is {lost.row(0)}",
                remedy="write the suite's tasks again, then the round; a release holds rows of the suite's tasks only",
            )
        return rows.filter(split=split).select(names)


def cleared(source: Source, withheld: Withheld = DROP) -> Source:
    """The source without what hygiene found; the same where hygiene was not run, or nothing is kept back.

    Raises:
        BadConfig: there is no such policy.
        BadTable: hygiene has not seen all tasks, or all of them stay behind.
    """
    if withheld not in get_args(Withheld):
        raise BadConfig(f"withheld {withheld!r} is not known", remedy=f"use one of {', '.join(get_args(Withheld))}")
    places = source.places("hygiene")
    rows = source.store.read("hygiene", places, columns=["task", "withheld"])
    if rows.is_empty():
        return source
    unseen = source.splits.join(rows, on="task", how="anti")["task"]
    if len(unseen):
        raise BadTable(
            f"hygiene of {source.suite}, round {source.round}, lacks {len(unseen)} tasks, the first is {unseen[0]}",
            remedy=f"run `branchpoint hygiene --suite {source.suite} --round {source.round}` again",
        )
    if withheld == KEEP:
        return source
    config = json.loads(source.store.entry("hygiene", places[0]).inputs.get("config") or "{}")
    found = leaving(rows, policy=withheld, region=config.get("region", ""))
    gone = {task for task, why in found.withheld.items() if withheld == DROP or why != "personal"}
    if gone.issuperset(source.splits["task"]):
        raise BadTable(
            f"hygiene withholds every task of {source.suite}, round {source.round}",
            remedy="mend the tasks, or release with --withheld keep",
        )
    return replace(source, leaving=found)


def _marked(batches: Iterator[pa.Table], late: bool) -> Iterator[pa.Table]:
    for some in batches:
        yield some.append_column(_LATE, pa.array(np.full(some.num_rows, late)))


def _split_named(shard: str) -> str | None:
    """The split that a shard is named after; None: any rows may be in it."""
    return next((split for split in SPLITS if shard.startswith(f"{split}-")), None)
