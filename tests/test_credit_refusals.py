"""Stored rows at fault end the stage of credit before it writes: a broken tree, a list too short, no reward."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from scripted_round import Pupil, copied, scripted

from pipeline.cli import main
from pipeline.credit import METHODS
from pipeline.credit.columns import CreditColumns, Method
from pipeline.stages.rollouts import RolloutConfig, write_rollouts
from pipeline.stages.tasks import write_tasks
from pipeline.stages.work import Work
from pipeline.store.write import as_arrow, write_parquet
from schemas import TABLES


@dataclass(frozen=True, slots=True)
class Nothing:
    """Parameters of a method that has none."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory):
    """Rollouts, drawn once."""
    with scripted(tmp_path_factory.mktemp("round"), Pupil()) as made:
        write_tasks(made)
        write_rollouts(made, RolloutConfig(group=4))
        yield made


@pytest.fixture(autouse=True)
def needy(monkeypatch):
    """A method that reads log-probabilities."""
    said = Method(
        lambda trees, params: CreditColumns(advantage=np.zeros(len(trees.parent))),
        origins=("prompt", "sample"),
        params=Nothing,
        needs=("logprobs",),
    )
    monkeypatch.setitem(METHODS, "needy", said)


def spoilt(work: Work, table: str, column: str, value: object) -> None:
    """Write the table as no stage would: another value in a row, or without the column."""
    (place,) = work.places(table)
    entry, rows = work.store.entry(table, place), as_arrow(TABLES[table], work.store.read(table, [place]))
    at = rows["node"].to_pylist().index(3) if table == "nodes" else 0
    number = rows.column_names.index(column)
    if value is None:
        rows = rows.remove_column(number)
    else:
        values, field = rows[column].to_pylist(), rows.schema.field(column)
        values[at] = value
        rows = rows.set_column(number, field, pa.array(values, field.type))
    write_parquet(place.path(work.store.root, table), table, rows, inputs=entry.inputs)


@pytest.mark.parametrize(
    ("table", "column", "value", "said"),
    [
        pytest.param("nodes", "parent", 99, "nodes: tree {tree}, node 3: its parent 99 is not there; ", id="orphan"),
        pytest.param("nodes", "parent", 4, "nodes: tree {tree}, node 3: its parent must stand before it; ", id="cycle"),
        pytest.param("nodes", "logprobs", [-0.5], "nodes: tree {tree}, node 3: logprobs is not as long", id="short"),
        pytest.param("verdicts", "reward", float("nan"), "verdicts: reward of tree {tree}, node ", id="not a number"),
        pytest.param("verdicts", "reward", 2.0, "verdicts: tree {tree}, node ", id="more than 1"),
        pytest.param("nodes", "logprobs", None, "its column logprobs is not that of version", id="no column"),
    ],
)
def test_rows_at_fault_are_named_before_anything_is_written(work, tmp_path, capsys, table, column, value, said):
    mine = copied(work, tmp_path)
    tree = mine.store.read("nodes", mine.places("nodes"))["tree"][0]
    spoilt(mine, table, column, value)
    suite, store = str(mine.settings.suites / "three.toml"), str(mine.store.root)
    command = ["credit", "--suite", suite, "--store", store, "--engine", "scripted", "--method", "needy", "--quiet"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert said.format(tree=tree) in error
    assert "run its stage again" in error
    assert not list(mine.store.root.glob("credit/**/*.*"))
