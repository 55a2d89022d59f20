"""Rows of a Parquet file as JSON records, few at a time where they may be large."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pipeline.exchange import units
from pipeline.exchange.units import Unit, said, too_long

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS = 1024
"""Most that are read at once."""
_WORST_BYTES = 8 * units.MOST_BYTES
"""Of rows that are read at once, were each as large as its whole group: a dictionary may make it so."""


def parquet_rows(path: Path) -> Iterator[Unit]:
    """The rows, by number; times are text, durations counts of their unit."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                size = _WORST_BYTES // max(1, file.metadata.row_group(group).total_byte_size)
                for batch in file.iter_batches(min(max(1, size), _ROWS), row_groups=[group]):
                    yield from _units(batch, number + 1)
                    number += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        yield Unit(number + 1, None, f"no readable Parquet: {said(error)}")


def _units(batch: pa.RecordBatch, first: int) -> Iterator[Unit]:
    """Rows as JSON. A batch that is too large, or that Python has no values for, is halved until the row at fault is
    alone."""
    import pyarrow as pa

    why, rows = too_long(), None
    try:
        batch = _plain(batch)
        if batch.nbytes <= units.MOST_BYTES:
            rows = [msgspec.json.encode(row) for row in batch.to_pylist()]
    except (pa.ArrowException, msgspec.MsgspecError, ValueError, TypeError, OverflowError) as error:
        why = said(error)
    if rows is None and batch.num_rows > 1:
        half = batch.num_rows // 2
        yield from _units(batch.slice(0, half), first)
        yield from _units(batch.slice(half), first + half)
    elif rows is None:
        yield Unit(first, None, why)
    else:
        for number, data in enumerate(rows, start=first):
            yield Unit(number, data) if len(data) <= units.MOST_BYTES else Unit(number, None, too_long())


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch without dictionaries and without times: Python's end at microseconds, at the year 9999 and at the zones
    that it knows."""
    import pyarrow as pa

    def in_utc(kind: pa.DataType) -> pa.DataType:
        return pa.timestamp(kind.unit, "UTC") if pa.types.is_timestamp(kind) and kind.tz is not None else kind

    def plain(kind: pa.DataType) -> pa.DataType:
        if pa.types.is_dictionary(kind):
            return kind.value_type
        return pa.string() if pa.types.is_temporal(kind) and not pa.types.is_interval(kind) else kind

    for change in (in_utc, plain):
        schema = pa.schema([field.with_type(_within(field.type, change)) for field in batch.schema])
        batch = batch.cast(schema) if schema != batch.schema else batch
    return batch


def _within(kind: pa.DataType, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """A type with those changed that stand in it."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_within(field.type, change)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_within(kind.key_type, change), _within(kind.item_type, change))
    for is_one, make in ((pa.types.is_list, pa.list_), (pa.types.is_large_list, pa.large_list)):
        if is_one(kind):
            return make(kind.value_field.with_type(_within(kind.value_type, change)))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_within(kind.value_type, change)), kind.list_size)
    return change(kind)
