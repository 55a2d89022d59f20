"""What a policy is sent for each task of a suite, for shapes of datasets that hold messages."""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from pipeline.builders.shapes import MESSAGES, Told
from pipeline.stages.work import Work


def told_of(work: Work) -> Told:
    """Of all tasks of the suite. An imported task is asked by its own messages, another one in the words of the pack.

    In an environment it is asked by what that shows: its `asked` is null.
    """
    tasks = work.store.tasks(work.suite.name).sort("task")
    imported = any(band.source == "imported" for band in work.suite.bands)
    asked: list[list[dict[str, str]] | None] = []
    for question, before in tasks.select("question", "messages").iter_rows():
        if work.suite.environment is not None:
            asked.append(None)
        elif imported:
            asked.append([*map(_bare, json.loads(before or "[]")), {"role": "user", "content": question}])
        else:
            asked.append(work.pack.messages("solve", question=question))
    rows = (
        tasks.select("task", "question", "answer", "reference_solution", "tools")
        .with_row_index("index")
        .with_columns(pl.col("index").cast(pl.Int64))
    )
    return Told(work.suite.separator, rows.with_columns(pl.Series("asked", asked, MESSAGES)))


def _bare(message: dict[str, Any]) -> dict[str, str]:
    return {name: str(message.get(name) or "") for name in ("role", "content")}
