"""Stage: what is found about the suite's tasks and the round's texts before any of it leaves the store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.errors import BadConfig
from pipeline.hygiene.benchmarks import WORDS, Benchmark, overlaps, read_benchmark
from pipeline.hygiene.examine import count_private, hygiene_rows, task_texts
from pipeline.hygiene.leaving import TEXTS
from pipeline.hygiene.near import near_groups
from pipeline.report import Report
from pipeline.stages.earlier import judged_from, rollout_shards, texts_beside
from pipeline.stages.work import Shards, Work, inputs, shards_of
from pipeline.store.layout import Place
from schemas.hygiene import WITHHELD

STAGE = TABLE = "hygiene"
VERSION = "3"
BATCH_ROWS = 100_000


@dataclass(frozen=True, slots=True)
class HygieneConfig:
    """benchmarks: files of what tasks must not repeat, .jsonl, .txt or .parquet. words: of an n-gram shared with them.
    most_overlap: share of a task's n-grams that a benchmark may have. similarity: Jaccard similarity from which on
    tasks read nearly the same. region: code of a country whose telephone numbers are known without their +. licences:
    JSON object, licence by band or source of tasks, of those whose record names none.
    """

    benchmarks: tuple[str, ...] = ()
    words: int = WORDS
    most_overlap: float = 0.0
    similarity: float = 0.8
    region: str = ""
    licences: str = ""


def write_hygiene(work: Work, config: HygieneConfig = HygieneConfig()) -> Report:
    """Examine the tasks of every split, and all that the round says of them in words.

    Raises:
        BadConfig: a value cannot be used.
        BadInput: a benchmark cannot be read.
    """
    licences = _check(config)
    benchmarks = [read_benchmark(Path(name), words=config.words) for name in config.benchmarks]
    tasks = work.store.tasks(work.suite.name)
    by_shard, sampled = shards_of(tasks, size=work.suite.shard_tasks), rollout_shards(work, columns=())
    digests = " ".join(work.store.tasks_digest(work.suite.name, shard) for shard in by_shard)
    shards = Shards(work, STAGE, (TABLE,))
    made_from = inputs(VERSION, config=_named(config), all_tasks=digests, benchmarks=_told(benchmarks))
    beside, places = texts_beside(work), _places(work)
    rows: pl.DataFrame | None = None
    for shard, here, said in shards.stale(
        by_shard,
        lambda shard: {
            **made_from,
            **(judged_from(work, shard, of=TABLE) if shard in sampled else {}),
            "texts": beside.get(shard, ""),
        },
    ):
        if rows is None:
            rows = _of_tasks(work, tasks, config, benchmarks, licences)
        own = rows.filter(pl.col("task").is_in(here["task"].to_list()))
        shards.write(shard, said, hygiene=_with_round(work, own, here, places.get(shard, {}), config))
    found = shards.read(TABLE)
    counts = dict(found["withheld"].drop_nulls().value_counts().iter_rows())
    return shards.finish(
        near_duplicates=int((found["near_count"] > 1).sum()),
        in_benchmarks=found["benchmark"].count(),
        secrets=int(found["secrets"].sum()),
        personal=int(found["personal"].sum()),
        **{f"withheld_{why}": counts.get(why, 0) for why in WITHHELD},
    )


def _check(config: HygieneConfig) -> dict[str, str]:
    """The licences.

    Raises:
        BadConfig: a value cannot be used.
    """
    for name, low in (("similarity", 0.1), ("most_overlap", 0.0)):
        if not low <= getattr(config, name) <= 1:
            raise BadConfig(f"{name} is {getattr(config, name)}", remedy=f"give a share from {low:g} to 1")
    if config.words < 1:
        raise BadConfig(f"words is {config.words}", remedy="give at least 1")
    if config.region:
        from phonenumbers import SUPPORTED_REGIONS

        if config.region not in SUPPORTED_REGIONS:
            raise BadConfig(f"region {config.region!r} is none", remedy="give the code of a country, such as US or DE")
    try:
        licences = json.loads(config.licences or "{}")
    except ValueError as error:
        raise BadConfig(f"licences {config.licences!r} are no JSON", remedy='write \'{"band": "mit"}\'') from error
    if not isinstance(licences, dict) or not all(isinstance(value, str) for value in licences.values()):
        raise BadConfig(f"licences {config.licences!r} name no licence each", remedy='write \'{"band": "mit"}\'')
    return licences


def _named(config: HygieneConfig) -> HygieneConfig:
    """The configuration without folders of this machine, for the file."""
    return replace(config, benchmarks=tuple(Path(name).name for name in config.benchmarks))


def _told(benchmarks: list[Benchmark]) -> str:
    return " ".join(f"{one.name} {one.digest[:16]}" for one in benchmarks)


def _of_tasks(
    work: Work, tasks: pl.DataFrame, config: HygieneConfig, benchmarks: list[Benchmark], licences: dict[str, str]
) -> pl.DataFrame:
    """Rows of all tasks, by what the tasks themselves say."""
    texts = task_texts(tasks)
    return hygiene_rows(
        tasks,
        near=near_groups(texts, threshold=config.similarity),
        shared=overlaps(texts, benchmarks, words=config.words),
        private=[_counted("tasks", tasks, config)],
        sources={band.name: _source(band.source, band.options) for band in work.suite.bands},
        licences=licences,
        most_overlap=config.most_overlap,
    )


def _source(name: str, options: Any) -> str:
    """Where a band's tasks are from: kind of source, and which of it."""
    which = getattr(options, "dataset", None) or getattr(options, "path", None)
    return f"{name} {Path(str(which)).name}" if which else name


def _with_round(
    work: Work, rows: pl.DataFrame, tasks: pl.DataFrame, places: dict[str, list[Place]], config: HygieneConfig
) -> pl.DataFrame:
    """The rows with what is found in a shard of the round's tables."""
    found = pl.concat([_counted("tasks", tasks.clear(), config), *_searched(work, tasks, places, config)])
    totals = found.group_by("task").agg(more=pl.col("secrets").sum(), others=pl.col("personal").sum())
    secrets, personal = pl.col("secrets") > 0, pl.col("personal") > 0
    return (
        rows.join(totals, on="task", how="left", maintain_order="left")
        .with_columns(
            secrets=pl.col("secrets") + pl.col("more").fill_null(0),
            personal=pl.col("personal") + pl.col("others").fill_null(0),
        )
        .with_columns(
            withheld=pl.when(pl.col("withheld").is_in(["near_held_out", "benchmark"]))
            .then("withheld")
            .when(secrets)
            .then(pl.lit("secret"))
            .when(personal)
            .then(pl.lit("personal"))
        )
        .drop("more", "others")
    )


def _places(work: Work) -> dict[str, dict[str, list[Place]]]:
    """Where the round's words are, by shard and table."""
    found: dict[str, dict[str, list[Place]]] = {}
    for table in TEXTS:
        for place in work.places(table):
            found.setdefault(place.shard, {}).setdefault(table, []).append(place)
    return found


def _searched(
    work: Work, tasks: pl.DataFrame, places: dict[str, list[Place]], config: HygieneConfig
) -> Iterator[pl.DataFrame]:
    """What is found in the words of a round's shard, batch by batch. A root that is the question repeats the task."""
    asked = tasks.select("task", text="question", parent=pl.lit(None, pl.Int32))
    for table, of_table in places.items():
        words = TEXTS[table]
        columns = (*words.plain, *words.json, *(("parent",) if table == "nodes" else ()))
        for batch in work.store.batches(table, of_table, columns=columns, rows=BATCH_ROWS):
            rows = pl.DataFrame(batch)
            if table == "nodes":
                rows = rows.join(asked, on=["task", "text", "parent"], how="anti", nulls_equal=True)
            yield _counted(table, rows, config)


def _counted(table: str, rows: pl.DataFrame, config: HygieneConfig) -> pl.DataFrame:
    """See `count_private`; of all words of a table's rows."""
    found, words = [], TEXTS[table]
    for columns, is_json in ((words.plain, False), (words.json, True)):
        some = [rows.select("task", text=name).drop_nulls() for name in columns]
        if some:
            found.append(count_private(pl.concat(some), region=config.region, json=is_json))
    return pl.concat(found)
