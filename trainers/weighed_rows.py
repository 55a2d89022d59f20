"""Rows that carry no text of their own, as trainers take them. Loads nothing heavy."""

from __future__ import annotations

import polars as pl

from pipeline.stages.work import Work

TRIED_ROWS = 32


def with_answers(work: Work, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows with `answer`: the text of the step that they end with, by which a wrong tokenizer is told.

    Null but for the tasks of the first `TRIED_ROWS` rows, so that no more of the trees is read, and where the step has
    no tokens.

    Args:
        work: the round.
        rows: with `task`, `tree` and `node`.
    """
    tasks = rows["task"].head(TRIED_ROWS).unique().implode()
    steps = work.store.scan("nodes", suite=work.suite.name, round=work.round).filter(pl.col("task").is_in(tasks))
    texts = steps.filter(pl.col("token_ids").list.len() > 0).select("tree", "node", answer="text").collect()
    return rows.join(texts, on=("tree", "node"), how="left", maintain_order="left")


def amplified(rows: pl.DataFrame) -> pl.DataFrame:
    """R3L's rows for weighted likelihood, its offline form: `weights` are the advantages of trained tokens, which may
    be negative. Rows without one are left out.

    Args:
        rows: of `rl_samples`, with `answer` beside.
    """
    weighed = rows.select(
        "task",
        "row",
        "answer",
        input_ids=pl.concat_list("prompt_ids", "answer_ids"),
        weights=pl.concat_list(
            pl.col("prompt_ids").list.eval(0 * pl.element().cast(pl.Float32)),
            pl.col("advantages").list.eval(pl.element().fill_null(0.0)),
        ),
    )
    return weighed.filter(pl.col("weights").list.eval(pl.element() != 0).list.any())
