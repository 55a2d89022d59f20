"""Packs of a table of training rows as two Parquet files, for trainers elsewhere.

`packs.parquet` has a row a pack: `pack`, and as long as each other `token_ids`, `positions`, `last`, `parent` (see
`pipeline.builders.packing`) and `weights`, the sum of the weights of all rows that a token stands for. `unpack.parquet`
has a row for every answer of every training row: `task`, `row`, `answer`, `pack`, `index` (of each of its tokens in the
pack) and `weights` (of each; null: unknown). What a weight is, `pipeline.lineage.datasets` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.builders.packing import MAX_TOKENS, Forecast, Pack, as_rows, forecast, pack_rows
from pipeline.errors import BadConfig
from pipeline.lineage.datasets import DATASETS
from pipeline.store.store import Store
from pipeline.store.write import disk_errors, write_parquet

_IDS, _FLOATS = pa.large_list(pa.int32()), pa.large_list(pa.float32())
PACKS = pa.schema(
    [
        ("pack", pa.int32()),
        *((name, _IDS) for name in ("token_ids", "positions", "last", "parent")),
        ("weights", _FLOATS),
    ]
)
UNPACK = pa.schema(
    [
        *((name, pa.string()) for name in ("task", "row", "answer")),
        ("pack", pa.int32()),
        ("index", _IDS),
        ("weights", _FLOATS),
    ]
)


class Answers(NamedTuple):
    """`A` answers of training rows. names: task, row and answer of each. weights: of its tokens; null: unknown."""

    names: list[tuple[str, str, str]]
    token_ids: list[list[int]]
    weights: list[list[float | None]]


def answers_of(table: str, rows: pl.DataFrame) -> Answers:
    """The answers of rows of a training table, each from its prompt on."""
    found = Answers([], [], [])
    for row in rows.iter_rows(named=True):
        for answer in DATASETS[table].answers:
            found.names.append((row["task"], row["row"], row.get("side") or answer.name))
            found.token_ids.append([token for name in answer.ids for token in row[name]])
            found.weights.append(answer.weights(row))
    return found


def packed_answers(answers: Answers, *, max_tokens: int = MAX_TOKENS) -> list[Pack]:
    """Packs of answers, those of a training row together.

    Raises:
        BadInput: a training row does not fit into a pack.
    """
    tasks, rows = (np.unique(part, return_inverse=True)[1] for part in list(zip(*answers.names, strict=True))[:2])
    return pack_rows(as_rows(answers.token_ids), max_tokens=max_tokens, groups=tasks, units=rows)


def write_packs(answers: Answers, packs: Sequence[Pack], folder: Path, *, inputs: dict[str, str]) -> None:
    """Write both files.

    Args:
        answers: that were packed.
        packs: of them.
        folder: for the files.
        inputs: what the answers came from; kept in the files.

    Raises:
        StoreFull: the disk refused.
    """
    columns: dict[str, list[Any]] = {name: [] for name in PACKS.names}
    rows: dict[str, list[Any]] = {name: [] for name in UNPACK.names}
    for number, pack in enumerate(packs):
        weights = [answers.weights[row] for row in pack.rows]
        known = np.array([weight or 0.0 for row in weights for weight in row])
        arrays = (pack.token_ids, pack.positions, pack.last, pack.parent, pack.sum_over_branches(known))
        for name, value in zip(columns, (number, *arrays), strict=True):
            columns[name].append(value)
        for row, weight, index in zip(pack.rows, weights, np.split(pack.index, pack.offsets[1:-1]), strict=True):
            for name, value in zip(rows, (*answers.names[row], number, index, weight), strict=True):
                rows[name].append(value)
    unpack = pa.table(rows, schema=UNPACK).sort_by([("task", "ascending"), ("row", "ascending")])
    with disk_errors(folder, setting="another folder"):
        write_parquet(folder / "packs.parquet", "packs", pa.table(columns, schema=PACKS), inputs=inputs)
        write_parquet(folder / "unpack.parquet", "unpack", unpack, inputs=inputs)


def pack_table(
    store: Store, table: str, folder: Path, *, suite: str, round: str, max_tokens: int = MAX_TOKENS
) -> Forecast:
    """Write a round's table of training rows as packs.

    Raises:
        BadConfig: the round has no such rows.
        BadInput: a row does not fit into a pack.
        StoreFull: the disk refused.
    """
    places = store.places(table, suite=suite, round=round)
    answers = answers_of(table, store.read(table, places))
    if not answers.names:
        raise BadConfig(f"round {round} of {suite} has no {table}", remedy="build them first")
    packs = packed_answers(answers, max_tokens=max_tokens)
    inputs = {"rows": " ".join(store.digest(table, place) for place in places), "max_tokens": str(max_tokens)}
    write_packs(answers, packs, folder, inputs=inputs)
    return forecast(packs)
