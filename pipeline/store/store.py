"""The store: tables as Parquet shards in a folder or behind a URL, read lazily, written a shard at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain, groupby
from pathlib import Path
from uuid import uuid4

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import BadTable
from pipeline.store.batches import ahead, merged
from pipeline.store.catalogue import Catalogue, Entry
from pipeline.store.files import Files, LocalFiles, files_at, locked, unreadable
from pipeline.store.layout import EVERY_ROUND, Place, by_shard, place_of
from pipeline.store.ledger import Ledger
from pipeline.store.write import ParquetPart, Written, as_arrow, disk_errors, validated
from schemas import TABLES
from schemas.base import arrow_schema, row_order
from schemas.versions import added_since

_SETTING = "BRANCHPOINT_STORE"
BATCH_ROWS = 200_000


class ShardWriter:
    """Takes the rows of one shard in batches of whole tasks, in their order; holds a row group and a batch.

    written: what came of it, once it is closed without an error.
    """

    written: Written

    def __init__(self, part: ParquetPart):
        self._part = part

    def add(self, rows: pl.DataFrame | pa.Table) -> None:
        """Validate and write the next rows.

        Raises:
            BadTable: they break a rule of their table, or the order of tasks.
        """
        if isinstance(rows, pa.Table):
            try:
                rows.validate(full=True)
            except pa.ArrowInvalid as error:
                raise BadTable(f"{self._part.table}: {error}", remedy="nothing was written") from error
            rows = pl.from_arrow(rows)
        self._part.add(as_arrow(TABLES[self._part.table], validated(self._part.table, rows)))


@cache
def _opened(root: str | Path, local: Path | None) -> tuple[Files, Catalogue]:
    files = files_at(root, local=local)
    return files, Catalogue(files)


@dataclass(frozen=True, slots=True)
class Store:
    """Tables and the ledger of requests beside them.

    root:  a folder, or a URL that fsspec opens.
    local: folder for the ledger of a store behind a URL; see `files_at`.
    """

    root: Path | str
    local: Path | None = None

    @property
    def files(self) -> Files:
        """Its files, by name."""
        return _opened(self.root, self.local)[0]

    @property
    def entries(self) -> Catalogue:
        """What is known of each file."""
        return _opened(self.root, self.local)[1]

    def write(self, table: str, rows: pl.DataFrame, at: Place, *, inputs: dict[str, str]) -> Written:
        """Replace one shard.

        Raises:
            BadTable: the rows break a rule, or another process writes the shard; nothing is written.
            StoreFull: the disk refused; nothing is left behind.
        """
        with self.writer(table, at, inputs=inputs) as out:
            out.add(rows)
        return out.written

    @contextmanager
    def writer(self, table: str, at: Place, *, inputs: dict[str, str]) -> Iterator[ShardWriter]:
        """Replace one shard by what is added until the end of the block; by nothing, where that ends in an error.

        Args:
            inputs: what the rows are made from (digests, parameters, versions); kept in the file.

        Raises:
            BadTable, StoreFull: as `write`.
        """
        name, local = at.name(table), self.files.local
        path = local / name
        with disk_errors(self.files.address(name), setting=_SETTING):
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.files, name):
                part = ParquetPart(
                    path.with_name(f".{path.name}.{uuid4().hex[:8]}.part"), table, arrow_schema(TABLES[table])
                )
                try:
                    out = ShardWriter(part)
                    yield out
                    out.written = part.finish(inputs)._replace(path=path)
                    self.files.put(part.path, name)
                    self.entries.note(name, table, inputs, out.written)
                finally:
                    part.close()

    def entry(self, table: str, at: Place) -> Entry | None:
        """What a shard's file says of itself. None: no such shard.

        Raises:
            BadTable: the file is damaged, none of ours, or of a newer version.
        """
        return self.entries.entry(at.name(table))

    def catalogue(self, table: str | None = None, **of: str | None) -> list[Entry]:
        """The files of a table, or of all, by `suite`, `round` and `stage`.

        Raises:
            BadTable: as `entry`.
        """
        return [
            entry
            for name in ((table,) if table else TABLES)
            for entry in self.entries.entries(_below(name, of.get("suite"), of.get("round")))
            if entry.place.is_of(**of)
        ]

    def digest(self, table: str, at: Place) -> str:
        """Digest of a shard's rows; empty where there is none."""
        entry = self.entry(table, at)
        return entry.digest if entry else ""

    def rows(self, table: str, at: Place) -> int:
        """Rows of a shard; 0 where there is none."""
        entry = self.entry(table, at)
        return entry.rows if entry else 0

    def is_current(self, tables: tuple[str, ...], at: Place, inputs: dict[str, str]) -> bool:
        """Whether every one of these shards is there and was made from just these inputs."""
        return all((entry := self.entry(table, at)) is not None and entry.inputs == inputs for table in tables)

    def places(self, table: str, **of: str | None) -> list[Place]:
        """The shards of a table, by `suite`, `round` and `stage`; none of them is read."""
        found = (place_of(stamp.name) for stamp in self.files.list(_below(table, of.get("suite"), of.get("round"))))
        return sorted(place for place in found if place.is_of(**of))

    def read(self, table: str, places: Sequence[Place], *, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows of some shards, in the order of the table's key within each task; no shard, no rows.

        Raises:
            BadTable: as `entry`.
        """
        schema = arrow_schema(TABLES[table])
        names = list(columns or schema.names)
        wanted = pa.schema([schema.field(name) for name in names])
        frames = [pl.from_arrow(wanted.empty_table())]
        for place in places:
            entry = self.entry(table, place)
            if entry is not None:
                with self._parquet(entry) as file:
                    frames.append(pl.from_arrow(_upgraded(entry, file.read, names).cast(wanted)))
        rows = pl.concat(frames)
        keys = [key for key in row_order(TABLES[table]) if key in names]
        return rows.sort(keys) if keys else rows

    def batches(
        self,
        table: str,
        places: Sequence[Place],
        *,
        columns: Sequence[str] | None = None,
        dictionary: Sequence[str] = (),
        rows: int = BATCH_ROWS,
    ) -> Iterator[pa.Table]:
        """The rows of some shards in bounded memory: batches of whole tasks, those of several stages merged. The next
        one is read while one is used.

        Args:
            columns: to read; `task` is read in any case, where the table has it.
            dictionary: columns of text to give as dictionaries, as they are cheaply stored; others than are read are
                passed over.
            rows: about how many a batch has; more where a task or a row group has more.

        Yields:
            Rows in the order of tasks within a shard, and of the table's key within a task.

        Raises:
            BadTable: as `entry`.
        """
        schema = arrow_schema(TABLES[table])
        names = list(dict.fromkeys((*(("task",) if "task" in schema.names else ()), *(columns or schema.names))))
        keys = [key for key in row_order(TABLES[table]) if key in names]

        def slices(place: Place) -> Iterator[pa.Table]:
            entry = self.entry(table, place)
            if entry is None:
                return
            with self._parquet(entry, dictionary=[name for name in dictionary if name in names]) as file:
                at = 0
                while at < file.num_row_groups:
                    upto, count = at, 0
                    while upto < file.num_row_groups and (upto == at or count < rows):
                        count += file.metadata.row_group(upto).num_rows
                        upto += 1
                    groups = list(range(at, upto))
                    yield _upgraded(entry, lambda columns, some=groups: file.read_row_groups(some, columns), names)
                    at = upto

        for shard in by_shard(places):
            sources = [slices(place) for place in shard]
            yield from ahead(merged(sources, keys) if "task" in names else chain.from_iterable(sources))

    def scan(self, table: str, **of: str | None) -> pl.LazyFrame:
        """A lazy frame over a table, by `suite`, `round` and `stage`; polars reads what the query needs.

        Raises:
            BadTable: as `entry`.
        """
        wanted = pl.from_arrow(arrow_schema(TABLES[table]).empty_table())
        frames = [wanted.lazy()]
        entries = sorted(self.catalogue(table, **of), key=lambda entry: (entry.version, entry.name))
        for version, some in groupby(entries, key=lambda entry: entry.version):
            open_by = self.files.address if isinstance(self.files, LocalFiles) else self.files.open
            read = pl.scan_parquet([open_by(entry.name) for entry in some], hive_partitioning=False)
            frames.append(
                read.with_columns(**added_since(table, version)).cast(dict(wanted.schema)).select(wanted.columns)
            )
        return pl.concat(frames)

    def tasks(self, suite: str, *, split: str | None = None, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The tasks of a suite. columns: those wanted beside `task` and `split`; None: all."""
        names = None if columns is None else list(dict.fromkeys(("task", "split", *columns)))
        rows = self.read("tasks", self.places("tasks", suite=suite, round=EVERY_ROUND), columns=names)
        return rows if split is None else rows.filter(pl.col("split") == split)

    def tasks_digest(self, suite: str, shard: str) -> str:
        """Digest of a shard's tasks."""
        return self.digest("tasks", Place(suite, EVERY_ROUND, "tasks", shard))

    def drop(self, table: str, at: Place) -> None:
        """Remove a shard that its source no longer has."""
        self.files.remove(at.name(table))

    def ledger(self) -> Ledger:
        """The ledger of requests; close it when done."""
        return Ledger(self.ledger_path)

    @property
    def ledger_path(self) -> Path:
        """Where the ledger lies: on this machine, also where the store does not."""
        return self.files.local / "ledger.sqlite"

    @contextmanager
    def _parquet(self, entry: Entry, *, dictionary: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
        try:
            with self.files.open(entry.name) as raw, pq.ParquetFile(raw, read_dictionary=list(dictionary)) as file:
                yield file
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno:
                raise unreadable(self.files.address(entry.name), error) from error
            raise BadTable(
                f"{self.files.address(entry.name)} is damaged: {error}", remedy="remove it and run its stage again"
            ) from error


def _below(table: str, suite: str | None, round: str | None) -> str:
    """The folder that holds what is asked for."""
    name = table if suite is None else f"{table}/suite={suite}"
    return name if suite is None or round is None else f"{name}/round={round}"


def _upgraded(entry: Entry, read: Callable[..., pa.Table], names: list[str]) -> pa.Table:
    """Columns of a file as those of today's version, in the order of `names`."""
    fields = {field.name: field for field in arrow_schema(TABLES[entry.table])}
    added = {name: made for name, made in added_since(entry.table, entry.version).items() if name in names}
    needed = {root for made in added.values() for root in made.meta.root_names()}
    kept = [name for name in names if name not in added]
    rows = read(columns=[*kept, *sorted(needed - set(kept))])
    frame = pl.from_arrow(rows.select(sorted(needed))) if needed else pl.DataFrame()
    for name, made in added.items():
        column = frame.select(made.alias(name)).to_series()
        column = column if len(column) == rows.num_rows else pl.Series(name, [None] * rows.num_rows)
        rows = rows.append_column(name, column.to_arrow().cast(fields[name].type))
    columns = [rows[name] for name in names]
    schema = pa.schema([fields[name].with_type(column.type) for name, column in zip(names, columns, strict=True)])
    return pa.table(columns, schema=schema)
