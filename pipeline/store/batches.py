"""Merges files of one shard, each sorted by task, into batches of whole tasks. Pure: tables in, tables out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

Made = TypeVar("Made")


def ahead(made: Iterator[Made]) -> Iterator[Made]:
    """The same, each made in a thread of its own while the one before it is used; so one more is held."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        following = pool.submit(next, made, None)
        while (one := following.result()) is not None:
            following = pool.submit(next, made, None)
            yield one


def merged(sources: Sequence[Iterator[pa.Table]], keys: Sequence[str]) -> Iterator[pa.Table]:
    """Batches in which every task is whole.

    A batch reaches as far as the source that is behind; what others have beyond that waits. Memory is a slice of each
    source.

    Args:
        sources: slices of whole tasks in their order.
        keys: order of the rows within a batch; the first is `task`.
    """
    waiting: list[pa.Table | None] = [None] * len(sources)
    ended = [False] * len(sources)
    while True:
        for index, source in enumerate(sources):
            while not ended[index] and not (waiting[index] and waiting[index].num_rows):
                waiting[index] = next(source, None)
                ended[index] = waiting[index] is None
        held = [index for index, rows in enumerate(waiting) if rows]
        if not held:
            return
        limit = min(waiting[index]["task"][-1].as_py() for index in held)
        ready = []
        for index in held:
            rows = waiting[index]
            count = rows.num_rows if rows["task"][-1].as_py() <= limit else _upto(rows, limit)
            ready.append(rows.slice(0, count))
            waiting[index] = rows.slice(count)
        some = [rows for rows in ready if rows.num_rows]
        yield some[0] if len(some) == 1 else _in_order(pa.concat_tables(some), keys)


def beside(
    first: Iterator[pa.Table], *others: Iterator[pa.Table]
) -> Iterator[tuple[pa.Table, tuple[pa.Table | None, ...]]]:
    """Each batch of one table, and what others have of its tasks.

    Args:
        first: batches of whole tasks in their order.
        others: likewise. Rows of tasks that `first` does not have are passed over.

    Yields:
        A batch, and of each of the others the rows up to the batch's last task; None where it has none at all.
    """
    waiting: list[list[pa.Table]] = [[] for _ in others]
    for batch in first:
        limit, found = batch["task"][-1].as_py(), []
        for held, other in zip(waiting, others, strict=True):
            while not held or held[-1]["task"][-1].as_py() <= limit:
                following = next(other, None)
                if following is None:
                    break
                if following.num_rows:
                    held.append(following)
            rows = pa.concat_tables(held) if held else None
            count = 0 if rows is None else _upto(rows, limit)
            found.append(None if rows is None else rows.slice(0, count))
            held[:] = [] if rows is None or count == rows.num_rows else [rows.slice(count)]
        yield batch, tuple(found)


def _upto(rows: pa.Table, limit: str) -> int:
    """Rows of tasks up to a limit; they are sorted."""
    task = rows["task"]
    low, high = 0, rows.num_rows
    while low < high:
        middle = (low + high) // 2
        if task[middle].as_py() <= limit:
            low = middle + 1
        else:
            high = middle
    return low


def _in_order(rows: pa.Table, keys: Sequence[str]) -> pa.Table:
    """The rows sorted. They are runs in order already, which a stable sort of one whole number a row is fast with."""
    rows = rows.unify_dictionaries().combine_chunks()
    place, span = np.zeros(rows.num_rows, np.int64), 1
    for key in keys:
        ranks = _ranks(rows[key].combine_chunks())
        values = int(ranks.max()) + 1
        if span * values >= 2**63:
            place = np.unique(place, return_inverse=True)[1]
            span = rows.num_rows
        place, span = place * values + ranks, span * values
    return rows.take(pa.array(np.argsort(place, kind="stable")))


def _ranks(column: pa.Array) -> np.ndarray:
    """`[N]` int64, from 0, in the order of the values: numbers less the least, text by rank; nulls last."""
    if pa.types.is_integer(column.type) and not column.null_count:
        numbers = _numpy(column)
        return numbers - numbers.min()
    coded = column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column)
    ranks = _numpy(pc.rank(coded.dictionary, tiebreaker="dense")) - 1
    return np.append(ranks, len(ranks))[_numpy(coded.indices.fill_null(len(ranks)))]


def _numpy(numbers: pa.Array) -> np.ndarray:
    """As int64; by way of polars, as pyarrow's own way imports pandas."""
    return pl.Series(numbers).to_numpy().astype(np.int64)
