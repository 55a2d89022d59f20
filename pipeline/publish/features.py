"""What a table's columns are called on the Hub: the features of a card. Knows no rows and no files."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from schemas.base import Table, arrow_schema

_NAMES = {pa.float32(): "float32", pa.float64(): "float64", pa.float16(): "float16"}
"""Arrow types whose own name is not the Hub's."""

Feature = dict[str, Any]


def table_features(table: type[Table]) -> list[Feature]:
    """The `features` of a card's `dataset_info`: the same as `datasets` reads from the table's Arrow schema.

    Raises:
        ValueError: a column is of a type that the Hub does not have, such as a map.
    """
    return schema_features(arrow_schema(table))


def schema_features(schema: pa.Schema) -> list[Feature]:
    """The same of an Arrow schema."""
    return [{"name": field.name, **_feature(field.name, field.type)} for field in schema]


def _feature(name: str, kind: pa.DataType) -> Feature:
    if pa.types.is_list(kind):
        inner = _feature(name, kind.value_type)
        return {"list": inner["dtype"] if inner.keys() == {"dtype"} else inner.get("struct", inner)}
    if pa.types.is_struct(kind):
        return {"struct": [{"name": field.name, **_feature(field.name, field.type)} for field in kind]}
    if pa.types.is_nested(kind) or pa.types.is_dictionary(kind):
        raise ValueError(f"column {name} is {kind}; a card holds scalars, structs and lists")
    return {"dtype": _NAMES.get(kind, str(kind))}
