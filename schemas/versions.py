"""Versions of the tables, and how a file of an older version is read as one of today's.

A table's version rises whenever a column is added. What a column was before it was there is stated here, once; a file
is never rewritten for it. SQL views cannot derive: there such a column is null in a file that lacks it.
"""

from __future__ import annotations

import polars as pl

_NULL = pl.lit(None)

UPGRADES: dict[str, tuple[dict[str, pl.Expr], ...]] = {
    "tasks": ({"messages": _NULL, "tools": _NULL},),
    "nodes": ({"token_count": pl.col("token_ids").list.len()}, {"step_reward": _NULL}),
    "requests": ({"reused": _NULL},),
    "verdicts": ({"components": _NULL},),
    "rl_samples": ({"record": _NULL, "group": _NULL},),
    "sft": ({"role": _NULL},),
    "variants": (dict.fromkeys(("parsed", "score", "budget", "effect_low", "effect_high"), _NULL),),
    "credit": ({"degenerate": _NULL},),
    "step_labels": ({"tool_exit": _NULL, "created": _NULL}, {"unread": _NULL}),
}
"""By table, the columns that each version after the first added, and what they are in a file of an older one."""


def version_of(table: str) -> int:
    """The version of a table that is written today; the first is 1."""
    return 1 + len(UPGRADES.get(table, ()))


def added_since(table: str, version: int) -> dict[str, pl.Expr]:
    """Columns that a file of a version lacks, each as an expression over those it has."""
    columns: dict[str, pl.Expr] = {}
    for step in UPGRADES.get(table, ())[version - 1 :]:
        columns |= step
    return columns
