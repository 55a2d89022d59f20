"""Rows as they may leave the store, by what hygiene found of their task.

A task that is withheld takes all its rows along: tokens spell what texts say, a path runs through nodes that others
share, and what is secret in one table stands in the next. Under REDACT personal data is the exception: the texts of
tasks, nodes and variants are kept with a word in its place, and the tokens of all nodes of the task are withheld with
it; training rows, which are nothing without tokens, go.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import polars as pl

from pipeline.hygiene.private import find_private, redacted
from schemas import TABLES

DROP, REDACT = "drop", "redact"
Policy = Literal["drop", "redact"]
_TEXTS = {
    "tasks": ("question", "messages", "answer", "reference_solution", "info"),
    "nodes": ("text", "tool_calls"),
    "variants": ("edit", "parsed", "dropped"),
    "verdicts": ("parsed_answer", "components", "error"),
    "step_labels": ("rationale",),
}
"""Columns of words, by table, of what is kept without tokens."""
_KEPT = ("hygiene", *_TEXTS)
"""Tables without figures a token, and that of nodes, whose tokens can be withheld."""


@dataclass(slots=True)
class Leaving:
    """What stays behind. withheld: tasks that do, by reason. tally: rows by table and by what was done with them."""

    withheld: dict[str, str]
    policy: Policy = DROP
    region: str = ""
    tally: Counter[tuple[str, str]] = field(default_factory=Counter)

    def passed(self, table: str, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows of a table without what stays behind; counted under `kept`, `withheld`, `redacted` or `tokens_withheld`.

        Args:
            rows: in the columns of the table. Of a table without tasks all pass.
        """
        if "task" not in rows.columns or not self.withheld:
            self.tally[table, "kept"] += len(rows)
            return rows
        tasks = rows["task"]
        mended = self._mended(table)
        stays = tasks.is_in([task for task in self.withheld if task not in mended])
        rows, lost = rows.filter(~stays), int(stays.sum())
        self.tally[table, "withheld"] += lost
        self.tally[table, "kept"] += len(rows)
        touched = rows["task"].is_in(list(mended))
        return self._redacted(table, rows, touched) if touched.any() else rows

    def _mended(self, table: str) -> set[str]:
        """Tasks whose rows of a table are kept, redacted."""
        if self.policy == DROP or table not in _KEPT:
            return set()
        return {task for task, why in self.withheld.items() if why == "personal"}

    def _redacted(self, table: str, rows: pl.DataFrame, touched: pl.Series) -> pl.DataFrame:
        for column in _TEXTS.get(table, ()):
            if column in rows.columns:
                said = rows[column].to_list()
                for place in touched.arg_true().to_list():
                    said[place] = said[place] and redacted(said[place], find_private(said[place], region=self.region))
                new = pl.Series(column, said, rows[column].dtype)
                self.tally[table, "redacted"] += int(new.ne_missing(rows[column]).sum())
                rows = rows.with_columns(new)
        here = pl.lit(touched)
        lists = [name for name, kind in rows.schema.items() if isinstance(kind, pl.List)]
        nullable = {name for name, column in TABLES[table].columns().items() if column.nullable}
        blank = {
            name: pl.when(here).then(None if name in nullable else pl.lit([], rows.schema[name])).otherwise(name)
            for name in lists
        }
        if table == "nodes":
            # Without its tokens a node says no longer that it was sampled, nor that it is a copy.
            blank |= {
                "token_count": pl.when(here).then(0).otherwise("token_count").cast(pl.Int32),
                "sampled": pl.when(here).then(False).otherwise("sampled"),
                "copied_from": pl.when(here).then(None).otherwise("copied_from"),
            }
        if lists:
            self.tally[table, "tokens_withheld"] += int(touched.sum())
        return rows.with_columns(**{name: made for name, made in blank.items() if name in rows.columns})


def leaving(hygiene: pl.DataFrame, *, policy: Policy = DROP, region: str = "") -> Leaving:
    """What may leave, from rows of the table `hygiene`; tasks it does not know pass."""
    kept = hygiene.drop_nulls("withheld")
    return Leaving(dict(zip(kept["task"], kept["withheld"], strict=True)), policy, region)
