"""The ledger of step labels: entries are added and never changed.

A version is the number of the entry among those of its step and labeller, a slash, and who spoke: the labeller's
version with that of the verifier behind it, a judge's policy and prompt, a person.
"""

from __future__ import annotations

import polars as pl

from pipeline.labels.rows import TYPES

STEP = ("tree", "node", "labeller")
_SAID = tuple(name for name in TYPES if name not in ("task", *STEP, "version"))
_NUMBER, _SPEAKER = "number of entry", "speaker"


def entry_number() -> pl.Expr:
    """The number of an entry, from 1; 0 where its version has none."""
    return pl.col("version").str.extract(r"^(\d+)/", 1).cast(pl.Int64).fill_null(0)


def speaker() -> pl.Expr:
    """Who spoke: the version without the number."""
    return pl.col("version").str.replace(r"^\d+/", "")


def newest(labels: pl.DataFrame) -> pl.DataFrame:
    """Of each step and labeller the last entry."""
    rows = labels.with_columns(entry_number().alias(_NUMBER)).sort(*STEP, _NUMBER, "version")
    return rows.unique(STEP, keep="last", maintain_order=True).drop(_NUMBER)


def with_entries(before: pl.DataFrame, now: pl.DataFrame) -> pl.DataFrame:
    """The ledger of a labeller after it spoke again.

    Args:
        before: its entries so far, on the same nodes.
        now: all that it says now, its version without a number: a row a step.

    Returns:
        The entries of before, and one more for each step of which something else is said than in its last entry, by
        somebody else, or nothing any more: then all that is said is null.
    """
    numbered = before.with_columns(
        version=pl.when(entry_number() > 0).then("version").otherwise(pl.lit("0001/") + pl.col("version"))
    )
    last = newest(numbered).with_columns(entry_number().alias(_NUMBER), speaker().alias(_SPEAKER))
    said = pl.any_horizontal(pl.col(name).is_not_null() for name in _SAID)
    lost = last.join(now, on=STEP, how="anti").filter(said)
    if now.height:
        lost = lost.with_columns(version=pl.lit(now["version"][0]))
    lost = lost.select("task", *STEP, "version", *(pl.lit(None, dtype=TYPES[name]).alias(name) for name in _SAID))
    beside = pl.concat([now.select(*TYPES), lost.select(*TYPES)]).join(
        last.select(*STEP, _NUMBER, _SPEAKER, *(pl.col(name).alias(f"last {name}") for name in _SAID)),
        on=STEP,
        how="left",
        validate="1:1",
    )
    same = pl.all_horizontal(pl.col(name).eq_missing(pl.col(f"last {name}")) for name in _SAID)
    fresh = beside.filter(~(same & (pl.col("version") == pl.col(_SPEAKER))).fill_null(False))
    added = fresh.with_columns(_named(pl.col(_NUMBER).fill_null(0) + 1))
    return pl.concat([numbered.select(*TYPES), added.select(*TYPES)]).sort("task", *STEP, "version")


def with_voices(before: pl.DataFrame, now: pl.DataFrame) -> pl.DataFrame:
    """The ledger of people after some of them spoke: each has entries of their own on a step, and none is withdrawn.

    Args:
        before: entries so far. now: what is said now, its version the author: a row a step and author.
    """
    told = before.with_columns(version=speaker()).select(*STEP, "version", *_SAID)
    fresh = now.join(told, on=[*STEP, "version", *_SAID], how="anti", nulls_equal=True).sort(*STEP, "version")
    count = before.group_by(STEP).agg(entry_number().max().alias(_NUMBER))
    place = pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over(STEP) + pl.col(_NUMBER).fill_null(0)
    added = fresh.join(count, on=STEP, how="left", maintain_order="left").with_columns(_named(place))
    return pl.concat([before.select(*TYPES), added.select(*TYPES)]).sort("task", *STEP, "version")


def _named(number: pl.Expr) -> pl.Expr:
    """A version: the number of the entry before who spoke."""
    return pl.concat_str(number.cast(pl.String).str.zfill(4), pl.lit("/"), "version").alias("version")
