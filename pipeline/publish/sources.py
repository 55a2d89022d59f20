"""Holds rows that a model was asked for against what it was asked from. Asks no model and opens no file."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import polars as pl

from pipeline.builders.rationales import ROLE
from pipeline.stages.rationales import JUDGE
from pipeline.stages.token_rewards import pair_sides
from schemas import TokenRewards


class Sourced(NamedTuple):
    """Rows that a stage made of a table, and the rows of another one that they were asked from.

    of, source_of: which rows.
    fault: from both of one shard, what is wrong with the first row that does not fit; empty: all do.
    """

    table: str
    stage: str
    source: str
    fault: Callable[[pl.DataFrame, pl.DataFrame], str]
    of: pl.Expr = pl.lit(True)
    source_of: pl.Expr = pl.lit(True)


def reward_fault(rows: pl.DataFrame, pairs: pl.DataFrame) -> str:
    """Token rewards beside their pairs: the same tokens, both sides of a pair, every number from -0.5 to 0.5 or NaN."""
    key, columns = TokenRewards.primary_key(), [name for name in TokenRewards.column_names() if name != "rewards"]
    sides = pair_sides(pairs).select(columns)
    if (lost := rows.join(sides, on=columns, how="anti")).height:
        return f"row {_named(lost, key)} is no side of its pair"
    if (alone := rows.filter(pl.len().over("row") != 2)).height:
        return f"row {_named(alone, key)} lacks the other side of its pair"
    value = pl.element()
    sound = pl.col("rewards").list.eval(value.is_between(-0.5, 0.5) | value.is_nan()).list.all()
    if (wrong := rows.filter(~sound)).height:
        return f"row {_named(wrong, key)} has a reward that is not from -0.5 to 0.5"
    return ""


def rationale_fault(rows: pl.DataFrame, labels: pl.DataFrame) -> str:
    """Rationales to imitate beside the labels of the judge that gave them."""
    said = labels.select("task", "tree", "node", answer="rationale").unique()
    lost = rows.join(said, on=said.columns, how="anti")
    return f"row {lost['row'][0]} is no rationale of {JUDGE} of its node" if lost.height else ""


def _named(rows: pl.DataFrame, key: list[str]) -> str:
    return ", ".join(map(str, rows.select(key).row(0)))


SOURCED = (
    Sourced("token_rewards", "token_rewards", "pairs", reward_fault),
    Sourced(
        "sft",
        "rationales",
        "step_labels",
        rationale_fault,
        of=pl.col("role") == ROLE,
        source_of=pl.col("labeller") == JUDGE,
    ),
)
"""What is checked so. A new kind is one entry."""
