"""Writes rows of a table: validate, sort, write beside, rename. Nothing else writes Parquet here.

The same rows and the same pyarrow give the same bytes. A task's rows never straddle a row group.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import dataframely as dy
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import BadTable, StoreFull
from schemas import TABLES
from schemas.base import SCHEMA_VERSION, Table, arrow_schema

ROW_GROUP_BYTES = 64 * 2**20
ROW_GROUP_ROWS = 25_000
CHUNKING = {"min_chunk_size": 64 * 2**10, "max_chunk_size": 256 * 2**10, "norm_level": 0}
META = b"branchpoint"
_REFUSALS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENOENT,
)


class Written(NamedTuple):
    """A file as it now lies on the disk; `digest` is of its rows."""

    path: Path
    rows: int
    digest: str


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
    keys = [*(("task",) if "task" in rows.columns else ()), *schema.primary_key()]
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
    return good.sort(list(dict.fromkeys(keys)))


def content_digest(data: pa.Table) -> str:
    """Hex digest of the rows: equal for equal rows, however they are chunked or encoded."""
    sink = hashlib.sha256()
    sink.update(f"{SCHEMA_VERSION}\n{data.schema.remove_metadata()}\n{data.num_rows}\n".encode())
    for column in data.columns:
        _digest_into(sink, column)
    return sink.hexdigest()[:32]


def _digest_into(sink, column: pa.ChunkedArray) -> None:
    """Feed nulls, lengths and values of a column, in an order that chunks do not change."""
    sink.update(np.packbits(column.is_null().to_numpy()).tobytes())
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        sink.update(pc.list_value_length(column).fill_null(0).to_numpy().astype("<i8").tobytes())
        _digest_into(sink, pa.chunked_array([pc.list_flatten(column).combine_chunks()]))
    elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        sink.update(pc.binary_length(column).fill_null(0).to_numpy().astype("<i8").tobytes())
        sink.update("".join(column.fill_null("").to_pylist()).encode())
    elif not pa.types.is_null(column.type):
        sink.update(
            column.cast(pa.uint8() if pa.types.is_boolean(column.type) else column.type)
            .fill_null(0)
            .to_numpy()
            .tobytes()
        )


def group_edges(data: pa.Table, *, max_bytes: int = ROW_GROUP_BYTES, max_rows: int = ROW_GROUP_ROWS) -> list[int]:
    """Row offsets at which groups end: at task borders, within the limits where a task allows."""
    rows = data.num_rows
    if rows == 0 or "task" not in data.column_names:
        return [rows]
    task = data["task"].combine_chunks()
    changes = pc.not_equal(task.slice(1), task.slice(0, rows - 1)).to_numpy(zero_copy_only=False)
    borders = np.append(np.flatnonzero(changes) + 1, rows)
    limit = min(max_rows, max(1, int(rows * max_bytes / max(1, data.nbytes))))
    edges, start = [], 0
    while start < rows:
        within = borders[(borders > start) & (borders <= start + limit)]
        end = int(within[-1]) if len(within) else int(borders[borders > start][0])
        edges.append(end)
        start = end
    return edges


def _encoding(schema: pa.Schema) -> dict:
    """Parquet options: dictionary on text alone, byte-stream-split on floats, plain token ids."""
    dictionary, split = [], []
    for field in schema:
        inner, path = field.type, field.name
        if pa.types.is_list(inner):
            inner, path = inner.value_type, f"{field.name}.list.element"
        if pa.types.is_floating(inner):
            split.append(path)
        elif pa.types.is_string(inner):
            dictionary.append(path)
    return {"use_dictionary": dictionary or False, "use_byte_stream_split": split or False}


@contextmanager
def disk_errors(path: Path, *, setting: str) -> Iterator[None]:
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
                remedy=f"free some space or choose another place with {setting}, then run again; it goes on there",
            ) from error
        raise


def as_arrow(table: type[Table], rows: pl.DataFrame) -> pa.Table:
    """Rows in the Arrow types of their table."""
    schema = arrow_schema(table)
    return pa.table([rows[field.name].to_arrow().cast(field.type) for field in schema], schema=schema)


def write_parquet(path: Path, table: str, data: pa.Table, *, inputs: dict[str, str]) -> Written:
    """Write one file of a table, replacing what was there in one rename.

    Args:
        path: the file's final name.
        data: valid rows in the order they shall have.
        inputs: what the rows were made from; kept in the file.

    Raises:
        OSError: the disk refused; nothing is left behind.
    """
    digest = content_digest(data)
    meta = {"table": table, "schema_version": SCHEMA_VERSION, "digest": digest, "inputs": inputs}
    data = data.replace_schema_metadata({META: json.dumps(meta, sort_keys=True).encode()})
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(
            part,
            data.schema,
            compression="zstd",
            compression_level=3,
            write_page_index=True,
            use_content_defined_chunking=CHUNKING,
            **_encoding(data.schema),
        ) as writer:
            start = 0
            for end in group_edges(data):
                writer.write_table(data.slice(start, end - start), row_group_size=max(1, end - start))
                start = end
        with part.open("rb") as handle:
            os.fsync(handle.fileno())
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return Written(path, data.num_rows, digest)


def write_shard(path: Path, table: str, rows: pl.DataFrame, *, inputs: dict[str, str]) -> Written:
    """Validate and write one shard, replacing what was there in one rename.

    Args:
        path: the file's final name.
        rows: the columns of the table, any order.
        inputs: what the rows were made from (digests, parameters, versions); kept in the file.

    Raises:
        BadTable: the rows break a rule; nothing is written.
        StoreFull: the disk refused; nothing is left behind.
    """
    data = as_arrow(TABLES[table], validated(table, rows))
    with disk_errors(path, setting="BRANCHPOINT_STORE"):
        return write_parquet(path, table, data, inputs=inputs)
