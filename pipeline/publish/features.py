"""What a table's columns are called on the Hub: the features of a card. Knows no rows and no files."""

from __future__ import annotations

import pyarrow as pa

from schemas.base import Table, arrow_schema

_NAMES = {pa.float32(): "float32", pa.float64(): "float64"}
"""Arrow types whose own name is not the Hub's."""


def table_features(table: type[Table]) -> list[dict[str, str]]:
    """The `features` of a card's `dataset_info`: the same as `datasets` reads from the table's Arrow schema.

    Raises:
        ValueError: a column is neither a scalar nor a list of scalars.
    """
    return [{"name": field.name, **_feature(field)} for field in arrow_schema(table)]


def _feature(field: pa.Field) -> dict[str, str]:
    if pa.types.is_list(field.type) and not pa.types.is_nested(field.type.value_type):
        return {"list": _name(field.type.value_type)}
    if pa.types.is_nested(field.type):
        raise ValueError(f"column {field.name} is {field.type}; a card holds scalars and lists of scalars")
    return {"dtype": _name(field.type)}


def _name(kind: pa.DataType) -> str:
    return _NAMES.get(kind, str(kind))
