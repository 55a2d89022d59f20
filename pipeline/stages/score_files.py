"""Files of scores: Parquet or JSON Lines, a row a node, sorted by shard in one pass that holds a piece at a time.

Does not know which nodes there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path

import polars as pl

from pipeline.errors import BadInput

ROW = "row of file"
"""Column with the number of a row, from 1; of JSON Lines, blank ones not counted."""
STRANGERS = ""
"""Stands for the shard of rows whose tree is of no task that was asked for."""

_TYPES: dict[str, pl.DataType] = {
    "tree": pl.String(),
    "node": pl.Int64(),
    "value": pl.Float64(),
    "token_values": pl.List(pl.Float32()),
    "text": pl.String(),
}
_FITTING: dict[str, tuple[str, Callable[[pl.DataType], bool]]] = {
    "tree": ("text", lambda kind: kind in (pl.String, pl.Categorical, pl.Enum)),
    "node": ("whole numbers", lambda kind: kind.is_integer()),
    "value": ("numbers", lambda kind: kind.is_numeric() or kind == pl.Null),
    "token_values": (
        "lists of numbers",
        lambda kind: kind == pl.Null or (kind == pl.List and (kind.inner.is_numeric() or kind.inner == pl.Null)),
    ),
    "text": ("text", lambda kind: kind in (pl.String, pl.Null)),
}
"""What a column of a Parquet file holds, for print, and whether a type is such."""
_HELD_BYTES = 64 * 2**20
_LINES = 4096
"""Lines that are read together where one at fault is looked for."""


@dataclass(frozen=True, slots=True)
class ScoreFile:
    """A file with columns `tree`, `node` and the one that holds what is said; others are passed over."""

    path: Path
    column: str

    @property
    def columns(self) -> dict[str, pl.DataType]:
        """The columns that are read, and what they are read as."""
        return {name: _TYPES[name] for name in ("tree", "node", self.column)}

    def digest(self) -> str:
        """Of its bytes."""
        with self.path.open("rb") as raw:
            return hashlib.file_digest(raw, "sha256").hexdigest()

    def sort_out(self, shards: Mapping[str, pl.Series], folder: Path) -> dict[str, Path]:
        """Write the rows of each shard into a folder of its own.

        Args:
            shards: tasks by shard; a tree is called by its task and what follows the last `@`.
            folder: an empty one.

        Returns:
            Folders by shard, `STRANGERS` among them, for `part`.

        Raises:
            BadInput: the file cannot be read; names the column or line at fault.
        """
        places = [pl.LazyFrame({"task": tasks, "part": place}) for place, tasks in enumerate(shards.values(), 1)]
        task = pl.col("tree").str.replace("@[^@]*$", "")
        rows = (
            self._scan().with_columns(task=task).join(pl.concat(places), on="task", how="left", maintain_order="left")
        )
        parts = {name: folder / str(place) for place, name in enumerate([STRANGERS, *shards])}
        for part in parts.values():
            part.mkdir()
        for number, held in enumerate(self._held(rows.select(ROW, *self.columns, pl.col("part").fill_null(0)))):
            for (place,), some in held.partition_by("part", include_key=False, as_dict=True).items():
                some.write_ipc(folder / str(place) / f"{number}.arrow")
        return parts

    def part(self, folder: Path) -> pl.LazyFrame:
        """The rows in a folder of `sort_out`, in the order of the file: `ROW` and the columns."""
        found = [pl.scan_ipc(path) for path in folder.glob("*.arrow")]
        return pl.concat([pl.LazyFrame(schema={ROW: pl.UInt32, **self.columns}), *found]).sort(ROW)

    def refuse(self, rows: pl.DataFrame, good: pl.Expr, *, why: str, remedy: str) -> None:
        """Raise for the first row that is not good.

        Args:
            rows: `ROW`, `tree` and `node` among its columns.
            good: over its columns; null is bad.
            why: follows "node … of tree …".

        Raises:
            BadInput: there is one; names file and row.
        """
        bad = rows.filter(~good.fill_null(False)).head(1)
        for row in bad.iter_rows(named=True):
            raise BadInput(
                f"{self.path}, row {row[ROW]}: node {row['node']} of tree {row['tree']!r} {why}", remedy=remedy
            )

    def _held(self, rows: pl.LazyFrame) -> Iterator[pl.DataFrame]:
        """Rows of the file, as many at a time as are held in memory.

        Raises:
            BadInput: the file cannot be read.
        """
        held: list[pl.DataFrame] = []
        size = 0
        try:
            for batch in rows.collect_batches(lazy=True):
                held.append(batch)
                size += batch.estimated_size()
                if size > _HELD_BYTES:
                    yield pl.concat(held)
                    held, size = [], 0
        except pl.exceptions.PolarsError as error:
            raise self._unreadable(error) from error
        if held:
            yield pl.concat(held)

    def _scan(self) -> pl.LazyFrame:
        options = {"row_index_name": ROW, "row_index_offset": 1}
        if self.path.suffix == ".jsonl":
            return pl.scan_ndjson(self.path, schema=self.columns, **options)
        try:
            rows = pl.scan_parquet(self.path, hive_partitioning=False, **options)
            types = rows.collect_schema()
        except pl.exceptions.PolarsError as error:
            raise self._unreadable(error) from error
        for name in self.columns:
            what, fits = _FITTING[name]
            if name not in types or not fits(types[name]):
                is_there = f"holds {types[name]}" if name in types else "is not there"
                raise BadInput(f"{self.path}: column {name} {is_there}", remedy=f"give {what} in it")
        return rows.select(ROW, *(pl.col(name).cast(kind, strict=False) for name, kind in self.columns.items()))

    def _unreadable(self, error: pl.exceptions.PolarsError) -> BadInput:
        found = self._bad_line() if self.path.suffix == ".jsonl" else None
        if found is None:
            return BadInput(f"{self.path} cannot be read: {str(error).splitlines()[0]}", remedy="write it again")
        line, why = found
        return BadInput(
            f"{self.path}, line {line}: {why}", remedy=f"give an object with {', '.join(self.columns)} in it"
        )

    def _bad_line(self) -> tuple[int, str] | None:
        """The first line of JSON that cannot be read, and why."""
        before = 0
        with self.path.open("rb") as lines:
            while some := list(islice(lines, _LINES)):
                if self._fault(b"".join(some)):
                    return next((before + at, why) for at, line in enumerate(some, 1) if (why := self._fault(line)))
                before += len(some)
        return None

    def _fault(self, lines: bytes) -> str:
        """Why some lines cannot be read; empty where they can."""
        try:
            pl.read_ndjson(BytesIO(lines), schema=self.columns)
        except pl.exceptions.PolarsError as error:
            return str(error).splitlines()[0]
        return ""


def score_file(name: str, column: str) -> ScoreFile:
    """A file by name.

    Args:
        name: of a .parquet or .jsonl file.
        column: `value`, `token_values` or `text`.

    Raises:
        BadInput: there is none, or it is of another kind.
    """
    path = Path(name)
    if path.suffix not in (".parquet", ".jsonl"):
        raise BadInput(f"{path} is no .parquet or .jsonl file", remedy="save it as one")
    if not path.is_file():
        raise BadInput(f"{path} does not exist", remedy="correct --file")
    return ScoreFile(path, column)
