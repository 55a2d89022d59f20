"""Rows of the step_labels table from what a labeller says."""

from __future__ import annotations

import polars as pl

from schemas import StepLabels
from schemas.base import column_types

TYPES = column_types(StepLabels)


def label_rows(said: pl.DataFrame, *, labeller: str, version: str) -> pl.DataFrame:
    """What a labeller says in the columns of the table; columns that are not there are null.

    Args:
        said: `task`, `tree`, `node` and some others of the table.
        labeller: who says it.
        version: of the labeller; the ledger puts the number of the entry before it.
    """
    columns = {"labeller": pl.lit(labeller), "version": pl.lit(version)}
    empty = {name: pl.lit(None) for name in TYPES if name not in (*said.columns, *columns)}
    return said.with_columns(**columns, **empty).select(*TYPES).cast(TYPES)
