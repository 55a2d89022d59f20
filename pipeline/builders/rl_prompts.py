"""Prompts for online RL: a task with its difficulty and how often it was solved when it was tried."""

from __future__ import annotations

import polars as pl

from pipeline.statistics import wilson
from schemas import RlPrompts
from schemas.base import column_types

NODE_COLUMNS = ("task", "tree", "node", "parent", "kind", "origin", "token_ids", "policy", "finish")


def prompt_rows(tasks: pl.DataFrame, nodes: pl.DataFrame, verdicts: pl.DataFrame) -> pl.DataFrame:
    """Rows of the table `rl_prompts`, one a task that has a tree.

    Only plain samples count as attempts: branches, retries and interventions begin where somebody put them.

    Args:
        tasks: rows of the tasks table.
        nodes: `NODE_COLUMNS` of whole trees.
        verdicts: `tree`, `node`, `reward`, at most one row a node.
    """
    plain = nodes.filter((pl.col("origin") == "sample") & pl.col("finish").is_not_null() & (pl.col("kind") == "step"))
    tried = plain.join(verdicts.select("tree", "node", "reward"), on=["tree", "node"], how="inner")
    by_task = (
        tried.drop_nulls("reward")
        .group_by("task")
        .agg(
            attempts=pl.len().cast(pl.Int32),
            solved=pl.col("reward").cast(pl.Float64).sum(),
            policy=pl.when(pl.col("policy").n_unique() == 1).then(pl.col("policy").first()),
        )
    )
    roots = nodes.filter(pl.col("parent").is_null()).sort("task", "tree").unique("task", keep="first")
    rows = (
        tasks.join(roots.select("task", prompt_ids="token_ids"), on="task", how="inner")
        .join(by_task, on="task", how="left")
        .with_columns(pl.col("attempts", "solved").fill_null(0))
        .sort("task")
    )
    low, high = wilson(rows["solved"].to_numpy(), rows["attempts"].to_numpy())
    known = pl.col("attempts") > 0
    types = column_types(RlPrompts)
    return (
        rows.with_columns(
            pl.when(known).then(pl.col("solved") / pl.col("attempts")).alias("pass_rate"),
            pl.when(known).then(pl.Series("low", low)).alias("pass_low"),
            pl.when(known).then(pl.Series("high", high)).alias("pass_high"),
            prompt="question",
        )
        .select(*types)
        .cast(types)
    )
