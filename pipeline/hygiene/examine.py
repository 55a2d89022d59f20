"""What is found about tasks, put together: rows of the table `hygiene`. Opens no table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import polars as pl

from pipeline.hygiene.benchmarks import Overlap
from pipeline.hygiene.near import Near
from pipeline.hygiene.private import PERSONAL, SECRET, find_private, strings_in, suspects
from schemas import Hygiene
from schemas.base import column_types

ASKED = ("messages", "question")
"""Of a task, what is compared with other tasks and with benchmarks."""


def task_texts(tasks: pl.DataFrame) -> list[str]:
    """What is asked, as one text a task."""
    return tasks.select(pl.concat_str(ASKED, separator="\n", ignore_nulls=True)).to_series().to_list()


def count_private(texts: pl.DataFrame, *, region: str = "", json: bool = False) -> pl.DataFrame:
    """Secrets and personal data by task.

    Args:
        texts: `task`, `text`; a text that a task has twice counts once.
        region: see `find_private`.
        json: whether the texts are JSON, whose strings are searched one by one.

    Returns:
        `task, secrets, personal` of the tasks that have any.
    """
    looked = texts.filter(suspects(texts["text"])).unique(maintain_order=True)
    parts = strings_in if json else lambda text: [text]
    found = [[one.kind for part in parts(text) for one in find_private(part, region=region)] for text in looked["text"]]
    counts = pl.DataFrame(
        {
            "task": looked["task"],
            "secrets": [kinds.count(SECRET) for kinds in found],
            "personal": [kinds.count(PERSONAL) for kinds in found],
        },
        schema={"task": pl.String, "secrets": pl.Int32, "personal": pl.Int32},
    )
    some = counts.group_by("task", maintain_order=True).sum()
    return some.filter((pl.col("secrets") > 0) | (pl.col("personal") > 0))


def hygiene_rows(
    tasks: pl.DataFrame,
    *,
    near: Near,
    shared: Sequence[Overlap],
    private: Iterable[pl.DataFrame],
    sources: Mapping[str, str],
    licences: Mapping[str, str],
    most_overlap: float,
) -> pl.DataFrame:
    """Rows of all tasks of a suite.

    A task is withheld where it is of the train split and reads nearly as a held-out one does, where a benchmark has
    more than `most_overlap` of its n-grams, or where there are secrets or personal data in its texts.

    Args:
        tasks: of the tasks table, of every split.
        near: of these tasks, in this order. shared: likewise.
        private: of `count_private`.
        sources: where tasks are from, by band. licences: by source or band. An imported task's own stands before
            these, as its record names it.
        most_overlap: in [0, 1).
    """
    names = tasks["task"].to_numpy()
    held = (tasks["split"] == "held_out").to_numpy()
    beside_held = np.zeros(len(tasks), bool)
    np.logical_or.at(beside_held, near.group, held)
    alone = np.bincount(near.group, minlength=len(tasks))[near.group] if len(tasks) else near.group
    counted = pl.concat([count_private(pl.DataFrame(schema={"task": pl.String, "text": pl.String})), *private])
    totals = counted.group_by("task").agg(pl.col("secrets").sum(), pl.col("personal").sum())
    overlap = np.array([one.share for one in shared])
    band = pl.col("band")
    own = {name: pl.col("info").str.json_path_match(f"$.source.{name}") for name in ("format", "licence")}
    by_band = band.replace_strict(dict(sources), default=None, return_dtype=pl.String)
    source = pl.coalesce(by_band, own["format"], pl.lit("not stated"))
    stated = (
        named.replace_strict(dict(licences), default=None, return_dtype=pl.String) if licences else pl.lit(None)
        for named in (band, source)
    )
    licence = pl.coalesce(own["licence"], *stated)
    types = column_types(Hygiene)
    return (
        tasks.select("task", "suite", "split", source=source, licence=licence)
        .with_columns(
            near_group=pl.Series(names[near.group], dtype=pl.String),
            near_count=pl.Series(alone, dtype=pl.Int32),
            similarity=pl.Series(near.similarity).fill_nan(None),
            benchmark=pl.Series([one.benchmark for one in shared], dtype=pl.String),
            overlap=pl.Series(overlap, dtype=pl.Float32),
            straddles=pl.Series(beside_held[near.group] & ~held, dtype=pl.Boolean),
            repeats=pl.Series(overlap > most_overlap, dtype=pl.Boolean),
        )
        .join(totals, on="task", how="left", maintain_order="left")
        .with_columns(
            pl.col("secrets", "personal").fill_null(0),
            overlap=pl.when(pl.col("benchmark").is_not_null()).then("overlap"),
        )
        .with_columns(
            withheld=pl.when("straddles")
            .then(pl.lit("near_held_out"))
            .when("repeats")
            .then(pl.lit("benchmark"))
            .when(pl.col("secrets") > 0)
            .then(pl.lit("secret"))
            .when(pl.col("personal") > 0)
            .then(pl.lit("personal"))
        )
        .select(*types)
        .cast(types)
        .sort("task")
    )
