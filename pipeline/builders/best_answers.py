"""Rows to imitate: the best of a task's answers, those that succeeded, each once."""

from __future__ import annotations

import polars as pl

from pipeline.builders.answers import distinct_answers
from schemas import Sft
from schemas.base import column_types


def best_rows(answers: pl.DataFrame, *, suite: str, least: float = 1.0, best: int = 1) -> pl.DataFrame:
    """Rows of the table `sft`; the tokens that were said are trained, those of the prompt and what was shown are not.

    Args:
        answers: as `judged_answers` gives them.
        suite: of the tasks.
        least: reward from which on an answer is imitated.
        best: of each tree so many distinct ones: the highest reward first, then the fewest tokens, then the first. 0:
            all.

    Source: best of n with the verifier as the judge, as in rejection-sampling fine-tuning (Yuan et al., 2023), where
        the distinct right answers are kept.
    """
    length = pl.col("answer_ids").list.len()
    ranked = answers.filter(pl.col("reward") >= least).sort(
        "tree", "reward", length, "node", descending=[False, True, False, False]
    )
    rows = distinct_answers(ranked)
    if best:
        rows = rows.filter(pl.int_range(pl.len()).over("tree") < best)
    types = column_types(Sft)
    prompt = pl.col("prompt_ids")
    named = rows.with_columns(
        row=pl.format("{}/{}", "tree", "node"),
        suite=pl.lit(suite),
        role=pl.lit(None, pl.String),
        input_ids=pl.concat_list("prompt_ids", "answer_ids"),
        weights=pl.concat_list(
            prompt.list.eval((pl.element() * 0).cast(pl.Float32)),
            "said",
        ),
    )
    return named.select(*types).cast(types).sort("task", "row")
