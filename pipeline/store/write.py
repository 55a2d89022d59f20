"""Writes rows of a table: validate, sort, write beside, seal, move into place. Nothing else writes Parquet here.

The same rows and the same pyarrow give the same bytes, in whatever batches they come. A task's rows never straddle a
row group. What is held in memory is one row group and one batch.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import dataframely as dy
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import BadTable, StoreFull
from pipeline.store.digest import RowDigest
from pipeline.store.files import LocalFiles
from pipeline.store.seal import BLANK, SEAL, seal
from schemas import TABLES
from schemas.base import Table, arrow_schema, row_order
from schemas.versions import version_of

ROW_GROUP_BYTES = 4 * 2**20
"""Of the values, before encoding: one task is found without reading much more. Each group costs a reader of many rows
memory, in the footer."""
ROW_GROUP_ROWS = 100_000
_HARDLY_REPEAT = frozenset(
    ("text", "request", "state_key", "prompt", "chosen", "rejected", "answer", "rationale", "trace")
)
"""Strings for which a dictionary saves nothing, and one more value changes all of it."""
META = b"branchpoint"
_REFUSALS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENOENT,
)


class Written(NamedTuple):
    """A finished file; `digest` is of its rows. first_task, last_task: null where it has none."""

    path: Path
    rows: int
    digest: str
    first_task: str | None
    last_task: str | None


def validated(table: str, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows in the table's columns and order, sorted by task and key.

    Raises:
        BadTable: a rule is broken; names the rule, how many rows break it and the first of them.
    """
    schema = TABLES[table]
    missing = [name for name in schema.column_names() if name not in rows.columns]
    if missing:
        raise BadTable(f"{table}: no column {', '.join(missing)}", remedy="a stage must fill every column of its table")
    rows = rows.select(schema.column_names())
    try:
        good, failures = schema.filter(rows, cast=True)
    except (dy.exc.SchemaError, pl.exceptions.PolarsError) as error:
        raise BadTable(f"{table}: {str(error).splitlines()[0]}", remedy="the rows do not fit the schema") from error
    counts = failures.counts()
    if counts:
        rule, count = max(counts.items(), key=lambda item: item[1])
        broken = failures.details().filter(pl.col(rule) == "invalid")
        first = broken.select(schema.primary_key()).row(0, named=True)
        raise BadTable(f"{table}: {count} rows break {rule}, the first is {first}", remedy="nothing was written")
    return good.sort(row_order(schema))


def as_arrow(table: type[Table], rows: pl.DataFrame) -> pa.Table:
    """Rows in the Arrow types of their table."""
    schema = arrow_schema(table)
    return pa.table([rows[field.name].to_arrow().cast(field.type) for field in schema], schema=schema)


def row_bytes(rows: pa.Table) -> np.ndarray:
    """`[N]` int64, bytes of each row's values before encoding, some for every column."""
    size = np.full(rows.num_rows, 8 * rows.num_columns, np.int64)
    for column in rows.columns:
        if pa.types.is_list(column.type):
            size += 4 * pc.list_value_length(column).fill_null(0).to_numpy()
        elif pa.types.is_string(column.type):
            size += pc.binary_length(column).fill_null(0).to_numpy()
    return size


def group_edges(
    rows: pa.Table, *, max_bytes: int = ROW_GROUP_BYTES, max_rows: int = ROW_GROUP_ROWS, last: bool = True
) -> list[int]:
    """Row offsets at which groups end: at task borders, within the limits where a task allows.

    Of the borders in the second half of what fits, that of the task with the least hash: when tasks come or go,
    the groups some way on end where they did, and have the bytes they had. Where that half has no two to choose from,
    of all that fit.

    Args:
        last: whether these are all the rows there will be; if not, what does not yet fill a group is left.
    """
    count = rows.num_rows
    if count == 0 or "task" not in rows.column_names:
        return [count] if last else []
    task = rows["task"].combine_chunks()
    changes = pc.not_equal(task.slice(1), task.slice(0, count - 1)).to_numpy(zero_copy_only=False)
    borders = np.append(np.flatnonzero(changes) + 1, count)
    upto = np.concatenate(([0], np.cumsum(row_bytes(rows))))
    edges, start = [], 0
    while start < count:
        full = min(start + max_rows, int(np.searchsorted(upto, upto[start] + max_bytes, side="right")) - 1)
        if full >= count:
            if last:
                edges.append(count)
            break
        first, least, most = np.searchsorted(borders, [start, start + (full - start) // 2, full], side="right").tolist()
        if most - least < 2:
            least = first
        if least < most:
            tasks = task.take(borders[least:most] - 1).to_pylist()
            at = least + min(range(most - least), key=lambda index: blake2b(tasks[index].encode()).digest())
        else:
            at = first
        if borders[at] == count and not last:
            break
        start = int(borders[at])
        edges.append(start)
    return edges


def _encoding(schema: pa.Schema) -> dict:
    """Parquet options: a dictionary where strings repeat, byte-stream-split on floats, delta on what grows.

    Bounds are kept of what rows are looked for by; those of long texts would be most of a footer.
    """
    dictionary, split, delta, bounded = [], [], {}, []
    for field in schema:
        inner, path = field.type, field.name
        if pa.types.is_list(inner):
            inner, path = inner.value_type, f"{field.name}.list.element"
        elif path not in _HARDLY_REPEAT:
            bounded.append(path)
        if pa.types.is_floating(inner):
            split.append(path)
        elif pa.types.is_string(inner) and path == field.name and path not in _HARDLY_REPEAT:
            dictionary.append(path)
        elif pa.types.is_integer(inner) and path == field.name:
            delta[path] = "DELTA_BINARY_PACKED"
    return {
        "use_dictionary": dictionary or False,
        "use_byte_stream_split": split or False,
        "column_encoding": delta or None,
        "write_statistics": bounded or False,
    }


@contextmanager
def disk_errors(path: object, *, setting: str) -> Iterator[None]:
    """Turn a disk's refusal into an error that names the variable with which to go elsewhere.

    Raises:
        StoreFull: the disk is full or may not be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _REFUSALS:
            raise StoreFull(
                f"cannot write {path}: {os.strerror(error.errno)}",
                remedy=f"free some space or choose another place with {setting}, then run again",
            ) from error
        raise


class ParquetPart:
    """A file being written at a path of this machine; nobody looks for it there until it is finished and moved."""

    def __init__(self, path: Path, table: str, schema: pa.Schema, *, group_bytes: int = ROW_GROUP_BYTES):
        self.path, self.table = path, table
        self._schema, self._group_bytes = schema, group_bytes
        self._digest = RowDigest(schema)
        self._rows, self._first, self._last = 0, None, None
        self._held: list[pa.Table] = []
        self._held_rows, self._held_bytes = 0, 0
        self._writer = pq.ParquetWriter(
            path, schema, compression="zstd", compression_level=3, write_page_index=True, **_encoding(schema)
        )

    def add(self, rows: pa.Table) -> None:
        """The next rows: whole tasks, after all that came before.

        Raises:
            BadTable: they are not in the order of their tasks.
        """
        if rows.num_rows == 0:
            return
        if "task" in self._schema.names:
            first, last = rows["task"][0].as_py(), rows["task"][-1].as_py()
            if self._last is not None and first <= self._last:
                raise BadTable(
                    f"{self.table}: rows of task {first} come after those of {self._last}",
                    remedy="give whole tasks in their order",
                )
            self._first, self._last = first if self._first is None else self._first, last
        self._digest.add(rows)
        self._rows += rows.num_rows
        self._hold(rows)
        if self._held_rows > ROW_GROUP_ROWS or self._held_bytes > self._group_bytes:
            self._write(last=False)

    def finish(self, inputs: dict[str, str]) -> Written:
        """Write what is left and what the file says of itself, and seal it."""
        self._write(last=True)
        digest = self._digest.hexdigest()
        meta = {
            "table": self.table,
            "schema_version": version_of(self.table),
            "digest": digest,
            "inputs": inputs,
            "sealed": True,
        }
        self._writer.add_key_value_metadata(
            {META.decode(): json.dumps(meta, sort_keys=True), SEAL.decode(): BLANK.decode()}
        )
        self._writer.close()
        seal(self.path)
        return Written(self.path, self._rows, digest, self._first, self._last)

    def close(self) -> None:
        """Give up, and leave nothing behind."""
        with suppress(Exception):  # a disk that is full may refuse the footer too
            self._writer.close()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _hold(self, rows: pa.Table) -> None:
        self._held.append(rows)
        self._held_rows += rows.num_rows
        self._held_bytes += int(row_bytes(rows).sum())

    def _write(self, *, last: bool) -> None:
        """Write what fills groups, or all, and hold the rest."""
        held, start = pa.concat_tables([self._schema.empty_table(), *self._held]), 0
        for end in group_edges(held, max_bytes=self._group_bytes, last=last):
            self._writer.write_table(
                held.slice(start, end - start).combine_chunks(), row_group_size=max(1, end - start)
            )
            start = end
        self._held, self._held_rows, self._held_bytes = [], 0, 0
        self._hold(held.slice(start))


def write_parquet(path: Path, table: str, rows: pa.Table, *, inputs: dict[str, str]) -> Written:
    """Write one file of a table outside the store, replacing what was there in one rename.

    Args:
        path: the file's final name.
        rows: valid rows in the order they shall have.
        inputs: what the rows were made from; kept in the file.

    Raises:
        OSError: the disk refused; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = ParquetPart(path.with_name(f".{path.name}.{os.getpid()}.part"), table, rows.schema)
    try:
        part.add(rows)
        written = part.finish(inputs)
        LocalFiles(path.parent).put(part.path, path.name)
    finally:
        part.close()
    return written._replace(path=path)
