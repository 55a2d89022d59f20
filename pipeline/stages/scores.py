"""Stage: scores from a file of one's own: what a model, a judge or a person says of nodes, for credit methods to read.

All of the file is checked before any shard is written; what is held in memory is a shard.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from pipeline.cli_options import check_choice
from pipeline.credit.inputs import INPUTS, SCORES
from pipeline.errors import BadConfig, BadInput
from pipeline.report import Report
from pipeline.stages.earlier import GENERATING, judged_from, rollout_shards
from pipeline.stages.score_files import STRANGERS, ScoreFile, score_file
from pipeline.stages.work import Shards, Work, inputs
from schemas import Scores
from schemas.base import column_types

VERSION = "1"
NAMES = tuple(name for name, given in INPUTS.items() if given.source.startswith(f"{SCORES}."))
"""What scores can say."""
_NULLS = "give null where nothing is known"


@dataclass(frozen=True, slots=True)
class ScoresConfig:
    """name: what the scores say, an input of credit methods. file: .parquet or .jsonl with columns tree, node, and
    value, token_values or text.
    """

    name: str = ""
    file: str = ""


def write_scores(work: Work, config: ScoresConfig = ScoresConfig()) -> Report:
    """Store what a file says of the round's nodes under a name, in place of what stood under it.

    Raises:
        BadConfig: there is no such name, or no file is given.
        BadInput: the file cannot be read, or a row of it names no node of the round, or a node twice, or says what
            cannot be; names file and row. Nothing is written.
        BadTable: the round has no rollouts, or grew on nodes that were replaced.
    """
    check_choice("name of scores", config.name, NAMES)
    if not config.file:
        raise BadConfig("no file is given", remedy="name it with --file")
    file = score_file(config.file, INPUTS[config.name].source.removeprefix(f"{SCORES}."))
    shards, by_shard = Shards(work, config.name, (SCORES,)), rollout_shards(work)
    made_from, local = inputs(VERSION, file=file.digest()), work.store.files.local
    local.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".scores-", dir=local) as folder:
        parts: dict[str, Path] = {}
        for shard, _, said in shards.stale(
            by_shard, lambda shard: {**made_from, **judged_from(work, shard, of=SCORES)}
        ):
            parts = parts or _checked(work, file, by_shard, Path(folder))
            rows = _read(work, file, shard, parts[shard]).with_columns(name=pl.lit(config.name))
            shards.write(shard, said, scores=rows.select(Scores.column_names()).cast(column_types(Scores)))
    return shards.finish(**_figures(work, config.name, file.column))


def _checked(work: Work, file: ScoreFile, by_shard: dict[str, pl.DataFrame], folder: Path) -> dict[str, Path]:
    """The folder of each shard's rows, all of which can be stored.

    Raises:
        BadInput: see `write_scores`.
    """
    parts = file.sort_out({shard: tasks["task"] for shard, tasks in by_shard.items()}, folder)
    said = sum(_read(work, file, shard, part)[file.column].count() for shard, part in parts.items())
    if not said:
        raise BadInput(f"{file.path}: no row says anything", remedy=f"give it in a column {file.column}")
    return parts


def _read(work: Work, file: ScoreFile, shard: str, part: Path) -> pl.DataFrame:
    """The rows of a shard in the columns of the table, all but the name.

    Raises:
        BadInput: see `write_scores`.
    """
    places = [] if shard == STRANGERS else [work.place(stage, shard) for stage in GENERATING]  # it has no file
    nodes = work.store.read("nodes", places, columns=["task", "tree", "node", "token_count"])
    nodes = nodes.with_columns(pl.col("node").cast(pl.Int64))
    found = file.part(part).head(1) if shard == STRANGERS else file.part(part)
    rows = found.collect().join(nodes, on=["tree", "node"], how="left", maintain_order="left")
    where = f"round {work.round} of {work.suite.name}"
    file.refuse(
        rows, pl.col("task").is_not_null(), why=f"is not in {where}", remedy="name nodes as its table nodes does"
    )
    once = pl.struct("tree", "node").is_first_distinct()
    file.refuse(rows, once, why="is there a second time", remedy="give one row a node")
    rows = rows.with_columns(
        pl.lit(None).alias(name) for name in ("value", "token_values", "text") if name != file.column
    )
    match file.column:
        case "value":
            good = pl.col("value").is_finite()
            file.refuse(rows, pl.col("value").is_null() | good, why="has no finite value", remedy=_NULLS)
        case "token_values":
            numbers, fits = pl.col("token_values"), pl.col("token_values").list.len() == pl.col("token_count")
            remedy = "give a number or null for each of its token_ids"
            file.refuse(rows, numbers.is_null() | fits, why="has not as many token_values as tokens", remedy=remedy)
            good = numbers.list.eval(pl.element().is_null() | pl.element().is_finite()).list.all()
            file.refuse(rows, numbers.is_null() | good, why="has a token value that is not finite", remedy=_NULLS)
        case _:
            good = pl.Series("good", [text is None or _is_json(text) for text in rows["text"]], dtype=pl.Boolean)
            file.refuse(rows.with_columns(good), pl.col("good"), why="has a text that is no JSON", remedy="give JSON")
    return rows


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _figures(work: Work, name: str, column: str) -> dict[str, float | None]:
    """Of the scores of a name: the share of the round's nodes of which something is said, and the mean of numbers."""
    said = pl.col(column)
    numbers = {"value": said, "token_values": said.explode(), "text": pl.lit(None)}[column].cast(pl.Float64)
    scores = work.store.scan(SCORES, suite=work.suite.name, round=work.round, stage=name)
    scored, mean = scores.select(scored=said.count(), mean=numbers.mean()).collect().row(0)
    nodes = sum(work.store.rows("nodes", place) for place in work.places("nodes"))
    return {"scored_share": scored / max(1, nodes), "mean": mean}
