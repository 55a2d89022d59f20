"""The store: tables as Parquet shards in a folder, read lazily, written a shard at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import BadTable
from pipeline.store.layout import EVERY_ROUND, Place, find_places
from pipeline.store.ledger import Ledger
from pipeline.store.write import META, Written, write_shard
from schemas import TABLES
from schemas.base import SCHEMA_VERSION, arrow_schema


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Name the file that is damaged.

    Raises:
        BadTable: the file is no Parquet, or not all of it.
    """
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:
        raise BadTable(f"{path} is damaged: {error}", remedy="remove it and run its stage again") from error


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of tables and the ledger of requests beside them."""

    root: Path

    def write(self, table: str, rows: pl.DataFrame, at: Place, *, inputs: dict[str, str]) -> Written:
        """Replace one shard; see `write_shard`."""
        return write_shard(at.path(self.root, table), table, rows, inputs=inputs)

    def meta(self, table: str, at: Place) -> dict | None:
        """What the file says of itself: digest, inputs, schema version. None: no such shard.

        Raises:
            BadTable: the file is of a newer schema, or none of ours.
        """
        path = at.path(self.root, table)
        if not path.exists():
            return None
        with _readable(path):
            found = (pq.read_schema(path).metadata or {}).get(META)
        if found is None:
            raise BadTable(f"{path} was not written by branchpoint", remedy="move it out of the store")
        try:
            meta = json.loads(found)
            version, _, _ = int(meta["schema_version"]), dict(meta["inputs"]), str(meta["digest"])
        except (ValueError, KeyError, TypeError) as error:
            raise BadTable(f"{path} is damaged: {error}", remedy="remove it and run its stage again") from error
        if version > SCHEMA_VERSION:
            raise BadTable(
                f"{path} has schema version {version}, this branchpoint reads up to {SCHEMA_VERSION}",
                remedy="update branchpoint",
            )
        return meta

    def digest(self, table: str, at: Place) -> str:
        """Digest of a shard's rows; empty where there is none."""
        meta = self.meta(table, at)
        return meta["digest"] if meta else ""

    def rows(self, table: str, at: Place) -> int:
        """Rows of a shard; 0 where there is none."""
        path = at.path(self.root, table)
        if not path.exists():
            return 0
        with _readable(path):
            return pq.read_metadata(path).num_rows

    def is_current(self, tables: tuple[str, ...], at: Place, inputs: dict[str, str]) -> bool:
        """Whether every one of these shards is there and was made from just these inputs."""
        return all((meta := self.meta(table, at)) is not None and meta["inputs"] == inputs for table in tables)

    def places(self, table: str, **of: str | None) -> list[Place]:
        """The shards of a table, by `suite`, `round` and `stage`."""
        return find_places(self.root, table, **of)

    def read(self, table: str, places: list[Place], *, columns: list[str] | None = None) -> pl.DataFrame:
        """The rows of some shards, in the order of the table's key within each task."""
        schema = TABLES[table]
        names = columns or schema.column_names()
        columns_of = pa.schema([arrow_schema(schema).field(name) for name in names])
        frames = [pl.from_arrow(columns_of.empty_table())]
        for place in places:
            path = place.path(self.root, table)
            if path.exists():
                with _readable(path):
                    frames.append(pl.from_arrow(pq.read_table(path, columns=names, partitioning=None).cast(columns_of)))
        rows = pl.concat(frames)
        keys = [key for key in ("task", *schema.primary_key()) if key in names]
        return rows.sort(list(dict.fromkeys(keys))) if keys else rows

    def tasks(self, suite: str, *, split: str | None = None) -> pl.DataFrame:
        """The tasks of a suite."""
        rows = self.read("tasks", self.places("tasks", suite=suite, round=EVERY_ROUND))
        return rows if split is None else rows.filter(pl.col("split") == split)

    def tasks_digest(self, suite: str, shard: str) -> str:
        """Digest of a shard's tasks."""
        return self.digest("tasks", Place(suite, EVERY_ROUND, "tasks", shard))

    def drop(self, table: str, at: Place) -> None:
        """Remove a shard that its source no longer has."""
        at.path(self.root, table).unlink(missing_ok=True)

    def ledger(self) -> Ledger:
        """The ledger of requests; close it when done."""
        return Ledger(self.root / "ledger.sqlite")
