"""Whether rows have anything of what a method needs, and the error where they have not.

Knows no file. What tasks lack is for whoever has seen a whole round to refuse; of some of them it is unknown.
"""

from __future__ import annotations

import polars as pl

from pipeline.credit.inputs import INPUTS, SCORES
from pipeline.errors import BadTable
from schemas import TABLES

_MAY_BE_EMPTY = ("tool_calls", "finish")


def always_known(name: str) -> bool:
    """Whether an input cannot be lacking: every row of its table has it, or nothing is an answer too."""
    one = INPUTS[name]
    return name in _MAY_BE_EMPTY or not TABLES[one.table].columns()[one.column].nullable


def has(rows: pl.DataFrame | None, name: str) -> bool:
    """Whether a row of its table has an input. None: there is no such table."""
    column = INPUTS[name].column
    return rows is not None and column in rows.columns and (always_known(name) or rows[column].count() > 0)


def lacking(rows: pl.DataFrame | None, name: str) -> BadTable:
    """The error that says what an input's table lacks, and what would fill it.

    Args:
        rows: as `has`, which is False; the first ones do.
        name: of INPUTS.
    """
    table, column = INPUTS[name].table, INPUTS[name].column
    if table == SCORES and (rows is None or rows.is_empty()):
        culprit = f"there are no scores {name}"
    elif rows is None or column not in rows.columns:
        culprit = f"{table} have no {column}"
    elif rows.is_empty():
        culprit = f"there are no {table}"
    else:
        first = rows.row(0, named=True)
        said = f"{table} {name}" if table == SCORES else table
        culprit = f"{said}: {column} is null from tree {first['tree']}, node {first['node']} on"
    return BadTable(culprit, remedy=INPUTS[name].remedy.replace("NAME", name))
