"""Filters of training rows, by name. Each says row by row what stays, so that what it takes away can be counted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from pipeline.errors import BadConfig

Rows = pl.DataFrame
_IDS = {
    "pairs": ("prompt_ids", ("chosen_ids", "rejected_ids")),
    "unpaired": ("prompt_ids", ("answer_ids",)),
    "token_rewards": ("prompt_ids", ("answer_ids",)),
    "rl_samples": ("prompt_ids", ("answer_ids",)),
    "rl_prompts": ("prompt_ids", ()),
    "sft": ("input_ids", ()),
    "patches": ("input_ids", ()),
    "prm_steps": ("input_ids", ()),
}
"""Columns of token ids: those before the answer, and the answers, of which the longest counts."""


class Filter(NamedTuple):
    """kept: of rows, the table and the value given, which rows stay, `[N]` bool; null is no.

    kind: of the value. tables: that have what it looks at; empty: all. about: for print.
    """

    kept: Callable[[Rows, str, Any], pl.Expr]
    kind: type
    tables: Collection[str] = ()
    about: str = ""


def tokens_of(table: str) -> pl.Expr:
    """Tokens of a row: the prompt and the longest answer."""
    before, answers = _IDS[table]
    length = pl.col(before).list.len()
    return length + pl.max_horizontal(pl.col(name).list.len() for name in answers) if answers else length


def _apart(most: float) -> pl.Expr:
    chosen, rejected = pl.col("chosen_ids").list.len(), pl.col("rejected_ids").list.len()
    return pl.max_horizontal(chosen, rejected) <= most * pl.min_horizontal(chosen, rejected)


def _alike(column: str, words: Any) -> pl.Expr:
    return pl.col(column).is_in(words)


FILTERS: dict[str, Filter] = {
    "max_tokens": Filter(lambda rows, table, most: tokens_of(table) <= most, int, about="prompt and longest answer"),
    "min_tokens": Filter(lambda rows, table, least: tokens_of(table) >= least, int, about="prompt and longest answer"),
    "sources": Filter(
        lambda rows, table, words: _alike("source", words), list, ("pairs",), "words of the column source"
    ),
    "least_margin": Filter(lambda rows, table, least: pl.col("margin") >= least, float, ("pairs",)),
    "length_ratio": Filter(
        lambda rows, table, most: _apart(most), float, ("pairs",), "of the longer answer to the shorter, at most"
    ),
    "least_reward": Filter(
        lambda rows, table, least: pl.col("reward") >= least, float, ("unpaired", "rl_samples"), "verdict of the leaf"
    ),
    "least_accuracy": Filter(lambda rows, table, least: pl.col("accuracy") >= least, float, ("patches",)),
    "least_pass_rate": Filter(lambda rows, table, least: pl.col("pass_rate") >= least, float, ("rl_prompts",)),
    "most_pass_rate": Filter(lambda rows, table, most: pl.col("pass_rate") <= most, float, ("rl_prompts",)),
    "roles": Filter(
        lambda rows, table, words: pl.col("role").fill_null("").is_in(words), list, ("sft",), "'' is a plain answer"
    ),
    "per_task": Filter(
        lambda rows, table, most: pl.int_range(pl.len()).over("task") < most, int, about="the first so many of a task"
    ),
}
"""What a recipe may name. A new filter is one entry."""


class Filtered(NamedTuple):
    """rows: what stays. dropped: by filter, in order, how many rows each took of those it was shown."""

    rows: pl.DataFrame
    dropped: dict[str, int]


def check_filters(filters: Mapping[str, Any], table: str) -> None:
    """Refuse what no filter is, or what a filter cannot use.

    Raises:
        BadConfig: names the filter.
    """
    for name, value in filters.items():
        known = [word for word, one in FILTERS.items() if not one.tables or table in one.tables]
        if name not in known:
            raise BadConfig(f"{table} has no filter {name!r}", remedy=f"use any of {', '.join(known)}")
        kind = FILTERS[name].kind
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number if kind is float else isinstance(value, kind) and not isinstance(value, bool)):
            raise BadConfig(f"filter {name} is {value!r}", remedy=f"give a value of type {kind.__name__}")


def filter_rows(rows: pl.DataFrame, table: str, filters: Mapping[str, Any]) -> Filtered:
    """Whole tasks of a table through filters, one after the other in the order given."""
    dropped = {}
    for name, value in filters.items():
        kept = rows.filter(FILTERS[name].kept(rows, table, value))
        dropped[name], rows = len(rows) - len(kept), kept
    return Filtered(rows, dropped)


def longer_side(pairs: pl.DataFrame) -> np.ndarray:
    """`[N]` int8: 1 where the chosen answer is the longer, -1 where the rejected one is, 0 where they are even."""
    lengths = [pairs[name].list.len().cast(pl.Int64).to_numpy() for name in ("chosen_ids", "rejected_ids")]
    return np.sign(lengths[0] - lengths[1]).astype(np.int8)


def right_side(rows: pl.DataFrame) -> np.ndarray:
    """`[N]` int8: 1 where the answer is right, -1 where it is wrong."""
    return np.where(rows["label"].to_numpy(), 1, -1).astype(np.int8)


BALANCES: dict[str, Callable[[pl.DataFrame], np.ndarray]] = {"pairs": longer_side, "unpaired": right_side}
"""By table, the sides of which as many rows each are kept where a recipe asks for balance."""
