"""What a process does that writes a shard beside another; a module of its own, so that the process can import it."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path

import polars as pl

from pipeline.store.layout import Place
from pipeline.store.store import Store
from schemas import TABLES
from schemas.base import column_types

AT = Place("sums", "r0", "rollouts", "train-000")
ROWS, WRITES = 3000, 25


def credit(advantage: float, rows: int = ROWS) -> pl.DataFrame:
    """Rows that all say the same number, so that a mixture of two writes shows."""
    row = dict.fromkeys(column_types(TABLES["credit"]))
    row |= {"task": "a", "tree": "a@r0", "method": "grpo", "advantage": advantage}
    return pl.DataFrame([row | {"node": node} for node in range(rows)], schema=column_types(TABLES["credit"]))


def hold(root: Path, told: Connection) -> None:
    """Begin a write and wait to be told how it ends."""
    with Store(root).writer("credit", AT, inputs={}) as out:
        out.add(credit(2.0))
        told.send("begun")
        told.recv()
    told.send("ended")


def write_often(root: Path, told: Connection) -> None:
    for number in range(WRITES):
        Store(root).write("credit", credit(float(number), ROWS + number), AT, inputs={"number": str(number)})
        if number == 0:
            told.send("begun")
    told.send("ended")
