"""Rows for KTO: an answer that was right or wrong, and no other beside it."""

from __future__ import annotations

import polars as pl

from pipeline.builders.answers import distinct_answers
from schemas import Unpaired
from schemas.base import column_types


def unpaired_rows(answers: pl.DataFrame, *, suite: str, least: float = 1.0, per_label: int = 4) -> pl.DataFrame:
    """Rows of the table `unpaired`.

    Args:
        answers: as `judged_answers` gives them.
        suite: of the tasks.
        least: reward from which on an answer is right.
        per_label: of each tree, the first so many distinct right answers and as many wrong ones. 0: all.

    Source: KTO (Ethayarajh et al., 2024), which needs a label an answer and no pairs.
    """
    rows = distinct_answers(answers).with_columns(label=pl.col("reward") >= least)
    if per_label:
        rows = rows.filter(pl.int_range(pl.len()).over("tree", "label") < per_label)
    types = column_types(Unpaired)
    named = rows.rename({"answer": "completion"}).with_columns(
        row=pl.format("{}/{}", "tree", "node"), suite=pl.lit(suite)
    )
    return named.select(*types).cast(types).sort("task", "row")
