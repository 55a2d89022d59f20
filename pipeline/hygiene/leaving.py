"""Rows as they may leave the store, by what hygiene found of their task.

A task that is withheld takes all its rows along: tokens spell what texts say, a path runs through nodes that others
share, and what is secret in one table stands in the next. Under REDACT personal data is the exception: the rows of
tables of TEXTS are kept with a word in its place, and the tokens of all nodes of the task are withheld with it, as are
figures a token; training rows, which are nothing without tokens, go.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import polars as pl

from pipeline.hygiene.private import find_private, redacted, redacted_json
from schemas import TABLES

DROP, REDACT = "drop", "redact"
Policy = Literal["drop", "redact"]


class Texts(NamedTuple):
    """Columns of words: as they are, and as JSON."""

    plain: tuple[str, ...] = ()
    json: tuple[str, ...] = ()


TEXTS = {
    "tasks": Texts(("question", "answer", "reference_solution"), ("messages", "tools", "info")),
    "nodes": Texts(("text",), ("tool_calls",)),
    "requests": Texts(("error",)),
    "scores": Texts((), ("text",)),
    "step_labels": Texts(("rationale",)),
    "variants": Texts(("edit", "dropped")),
    "verdicts": Texts(("parsed_answer", "error"), ("components",)),
}
"""By table, what is searched, and what is redacted of tables that are kept without tokens."""
_KEPT = ("hygiene", *TEXTS)


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
        words = TEXTS.get(table, Texts())
        for column in (*words.plain, *words.json):
            if column in rows.columns:
                said, mend = rows[column].to_list(), redacted_json if column in words.json else _redacted
                for place in touched.arg_true().to_list():
                    said[place] = said[place] and mend(said[place], region=self.region)
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


def _redacted(text: str, *, region: str) -> str:
    return redacted(text, find_private(text, region=region))


def leaving(hygiene: pl.DataFrame, *, policy: Policy = DROP, region: str = "") -> Leaving:
    """What may leave, from rows of the table `hygiene`; tasks it does not know pass."""
    kept = hygiene.drop_nulls("withheld")
    return Leaving(dict(zip(kept["task"], kept["withheld"], strict=True)), policy, region)
