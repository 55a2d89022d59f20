"""What a card says of hygiene: the facts from rows of the table, and their words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import polars as pl

from pipeline.publish.markdown import code, figures_table
from schemas.hygiene import WITHHELD

COLUMNS = ("split", "source", "licence", "near_count", "benchmark", "secrets", "personal", "withheld")
_MOST_ROWS, _MOST_LETTERS = 30, 80
_MEANING = {
    "near_held_out": "a held-out task reads nearly the same",
    "benchmark": "a benchmark has n-grams of the task",
    "secret": "a secret was found in its texts",
    "personal": "personal data was found in its texts",
}


class HygieneFacts(NamedTuple):
    """tasks, near: examined, and those not alone in their group. sources: tasks by source and licence, if any.
    benchmarks: tasks that share n-grams, by benchmark. secrets, personal: found. withheld: tasks, by reason.
    """

    tasks: int
    near: int
    sources: dict[tuple[str, str | None], int]
    benchmarks: dict[str, int]
    secrets: int
    personal: int
    withheld: dict[str, int]


def hygiene_facts(batches: Iterable[pl.DataFrame]) -> HygieneFacts:
    """Of rows of the table `hygiene`, at least its COLUMNS, some at a time."""
    sources: Counter[tuple[str, str | None]] = Counter()
    benchmarks: Counter[str] = Counter()
    withheld: Counter[str] = Counter()
    tasks = near = secrets = personal = 0
    for rows in batches:
        tasks, near = tasks + len(rows), near + int((rows["near_count"] > 1).sum())
        secrets, personal = secrets + int(rows["secrets"].sum()), personal + int(rows["personal"].sum())
        sources.update(rows.select("source", "licence").iter_rows())
        benchmarks.update(rows["benchmark"].drop_nulls())
        withheld.update(rows["withheld"].drop_nulls())
    ordered = sorted(sources.items(), key=lambda item: (item[0][0], item[0][1] or ""))
    reasons = {why: withheld[why] for why in WITHHELD if withheld[why]}
    return HygieneFacts(tasks, near, dict(ordered), dict(sorted(benchmarks.items())), secrets, personal, reasons)


def hygiene_section(facts: HygieneFacts) -> str:
    """The section of a card, in Markdown."""
    lines = [
        f"Examined: {facts.tasks:,} tasks. Of these {facts.near:,} read nearly the same as another one; such tasks "
        "carry the same `near_group`.",
        f"Found in texts: {facts.secrets:,} secrets of known forms, {facts.personal:,} addresses and numbers of "
        "persons. Names are not looked for.",
    ]
    lines += [f"Tasks that share n-grams with {_cell(name)}: {count:,}." for name, count in facts.benchmarks.items()]
    lines += [f"Held to be withheld, {count:,} tasks: {_MEANING[why]}." for why, count in facts.withheld.items()]
    rows = [
        (_cell(source), "not stated" if licence is None else _cell(licence), count)
        for (source, licence), count in facts.sources.items()
    ]
    if len(rows) > _MOST_ROWS:
        rest = rows[_MOST_ROWS:]
        rows[_MOST_ROWS:] = [(f"{len(rest):,} more", "", sum(count for *_, count in rest))]
    table = figures_table(("source of tasks", "licence", "tasks"), rows)
    return "\n\n".join(["## Hygiene", "\n".join(f"- {line}" for line in lines), table])


def _cell(text: str) -> str:
    """What an imported record may have named, so untrusted."""
    return code(text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}…")
