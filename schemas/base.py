"""What every table is made of: one dataframely declaration, read as Arrow, as columns for print, as a key.

Knows no table and reads no file.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import dataframely as dy
import polars as pl
import pyarrow as pa

_SCALARS = {
    pl.String: pa.string(),
    pl.Int32: pa.int32(),
    pl.Int64: pa.int64(),
    pl.Float32: pa.float32(),
    pl.Float64: pa.float64(),
    pl.Boolean: pa.bool_(),
}


def one_of(words: Iterable[str]) -> str:
    """A pattern that matches exactly these words."""
    return rf"^({'|'.join(words)})$"


def as_long_as(column: dy.Column, element: pl.Expr) -> pl.Expr:
    """A list as long as that of another column, its elements made from those; for rows drawn at random."""
    return column.col.list.eval(element)


class ColumnDoc(NamedTuple):
    """A column as a reader sees it."""

    name: str
    type: str
    nullable: bool
    description: str


class Table(dy.Schema):
    """Base of all tables; the subclass's docstring says what one row is."""


def arrow_type(dtype: pl.DataType) -> pa.DataType:
    """The Arrow type a polars type is stored as: never large, never a dictionary, never a map."""
    if isinstance(dtype, pl.List):
        return pa.list_(arrow_type(dtype.inner))
    if isinstance(dtype, pl.Datetime):
        return pa.timestamp("us", tz="UTC")
    return _SCALARS[type(dtype) if not isinstance(dtype, type) else dtype]


def column_types(table: type[Table]) -> dict[str, pl.DataType]:
    """Column names to polars types, for frames made from rows."""
    return {name: column.dtype for name, column in table.columns().items()}


def arrow_schema(table: type[Table]) -> pa.Schema:
    """The schema written to Parquet, with a description a field."""
    return pa.schema(
        [
            pa.field(
                name,
                arrow_type(column.dtype),
                nullable=column.nullable,
                metadata={"description": column.description or ""},
            )
            for name, column in table.columns().items()
        ]
    )


def row_order(table: type[Table]) -> list[str]:
    """The columns by which a table's rows are ordered: the task, where it has one, then its key."""
    task = ("task",) if "task" in table.column_names() else ()
    return list(dict.fromkeys((*task, *table.primary_key())))


def column_docs(table: type[Table]) -> list[ColumnDoc]:
    """The columns in order, for the UI, the card and the docs."""
    return schema_docs(arrow_schema(table))


def schema_docs(schema: pa.Schema) -> list[ColumnDoc]:
    """The same of a schema as files have it, whatever they call the values of a list."""
    return [
        ColumnDoc(
            field.name,
            str(pa.list_(field.type.value_type) if pa.types.is_list(field.type) else field.type),
            field.nullable,
            (field.metadata or {}).get(b"description", b"").decode(),
        )
        for field in schema
    ]


def describe(table: type[Table]) -> str:
    """The first line of the table's docstring: what one row is."""
    return (table.__doc__ or "").strip().split("\n")[0]
