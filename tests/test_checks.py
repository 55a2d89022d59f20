"""Checks of the store pass what is sound and find what was spoiled."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import dataframely as dy
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.generation.engine import Sampling
from pipeline.generation.sampler import Sampler
from pipeline.generation.scripted import ScriptedEngine
from pipeline.stages.work import request_rows
from pipeline.store.checks import CHECKS
from pipeline.store.layout import Place
from pipeline.store.store import Store
from pipeline.store.write import META, ParquetPart, as_arrow, write_parquet
from pipeline.trees.grow import Tree, nodes_frame
from pipeline.trees.segment import Step
from schemas import TABLES
from schemas.words import SPLITS

HERE = Place("sums", "r0", "rollouts", "train-000")
LATER = Place("sums", "r0", "trees", "train-000")


def grow(store: Store) -> None:
    """Random rows in every table; nodes and requests from a scripted engine.

    #     0         the prompt 5 6
    #   1   3       two samples of two steps; both end with token 9
    #   2   4
    """
    for table in TABLES.keys() - {"nodes", "requests"}:
        store.write(table, TABLES[table].sample(8, generator=dy.random.Generator(7)), HERE, inputs={})
    engine = ScriptedEngine(lambda request: [1, 2, 3 + request.sample, 9])
    tree, prompt = Tree("a", "a@r0"), np.array([5, 6], np.int32)
    tree.add_prompt(None, prompt, text="?", agent="solver")
    with store.ledger() as ledger:
        sampler = Sampler(ledger, "scripted", engine.fingerprint, lambda: engine)
        asked = [sampler.request(prompt, Sampling(), sample=sample) for sample in (0, 1)]
        for answer in sampler.run(asked).values():
            tree.add_answer(0, answer, [Step(0, 2, "one"), Step(2, 4, "two")], kind="step", origin="sample")
        requests = request_rows(
            ledger, dict.fromkeys((request.key for request in asked), "a"), stage="rollouts", asked_by=""
        )
    store.write("nodes", nodes_frame([tree]), HERE, inputs={})
    store.write("requests", requests, HERE, inputs={})


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Store:
    store = Store(tmp_path_factory.mktemp("sound") / "store")
    grow(store)
    return store


@pytest.fixture
def store_to_spoil(sound, tmp_path) -> Store:
    return Store(shutil.copytree(sound.root, tmp_path / "store"))


def overwrite(store: Store, table: str, rows: pl.DataFrame, *, at: Place = HERE) -> None:
    """Write rows past the writer's rules."""
    write_parquet(at.path(store.root, table), table, as_arrow(TABLES[table], rows), inputs={})


def twice(store: Store, table: str) -> None:
    """A row of one stage in another, too."""
    overwrite(store, table, store.read(table, [HERE])[:1], at=LATER)


def emptied(store: Store, table: str) -> None:
    overwrite(store, table, store.read(table, [HERE]).clear())


def straddled(store: Store, table: str) -> None:
    """A task in two row groups, sealed as if it were ours."""
    path = HERE.path(store.root, table)
    rows = as_arrow(TABLES[table], store.read(table, [HERE]).with_columns(task=pl.lit("z")))
    part = ParquetPart(path, table, rows.schema)
    part._writer.write_table(rows, row_group_size=1)
    part.finish({})


def altered(store: Store, table: str) -> None:
    """Other rows under what the file said of the old ones."""
    path = HERE.path(store.root, table)
    data = as_arrow(TABLES[table], store.read(table, [HERE]).with_columns(task=pl.lit("z")))
    pq.write_table(data.replace_schema_metadata(pq.read_schema(path).metadata), path)


def not_finite(store: Store, table: str) -> None:
    rows = store.read(table, [HERE])
    name = next(name for name, dtype in rows.schema.items() if dtype.is_float())
    overwrite(store, table, rows.with_columns(pl.lit(float("nan"), pl.Float32).alias(name)))


def asked_again(store: Store, table: str) -> None:
    """A question of one split in the other, too."""
    row = store.read(table, [HERE])[:1]
    split = next(split for split in SPLITS if split != row["split"][0])
    overwrite(store, table, row.with_columns(task=pl.lit("another"), split=pl.lit(split)), at=LATER)


SPOILED = {
    "keys_unique": twice,
    "any_rows": emptied,
    "as_written": altered,
    "rows_valid": not_finite,
    "splits_apart": asked_again,
}


def scribble(path: Path) -> None:
    """Spoil the pages and leave the footer as it is."""
    data = path.read_bytes()
    path.write_bytes(data[:4] + b"\xff" * 200 + data[204:])


def column_lost(path: Path) -> None:
    """A file without a seal, as of an older version, that lacks a column."""
    meta = json.loads(pq.read_metadata(path).metadata[META]) | {"sealed": False}
    rows = pq.read_table(path, partitioning=None).drop_columns(["task"])
    pq.write_table(rows.replace_schema_metadata({META: json.dumps(meta)}), path)


DAMAGED: dict[str, Callable[[Path], object]] = {
    "emptied": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "pages scribbled over": scribble,
    "not ours": lambda path: pq.write_table(pa.table({"x": [1]}), path),
    "without what it says of itself": lambda path: pq.write_table(pq.read_table(path).replace_schema_metadata(), path),
    "a column short": column_lost,
    "gone": Path.unlink,
}


class TestChecks:
    @pytest.mark.parametrize(("table", "check"), [(table, name) for table, found in CHECKS.items() for name in found])
    def test_sound_rows_pass(self, sound, table, check):
        assert CHECKS[table][check](sound, table, [HERE]).passed

    @pytest.mark.parametrize(
        ("table", "check"), [(table, name) for table, found in CHECKS.items() for name in found if name in SPOILED]
    )
    def test_spoiled_rows_fail(self, store_to_spoil, table, check):
        SPOILED[check](store_to_spoil, table)
        assert not CHECKS[table][check](store_to_spoil, table, store_to_spoil.places(table)).passed

    def test_a_question_in_both_splits_is_named(self, store_to_spoil):
        places = store_to_spoil.places("tasks")
        questions = store_to_spoil.read("tasks", places)["question"].n_unique()
        assert CHECKS["tasks"]["splits_apart"](store_to_spoil, "tasks", places).detail == f"{questions} questions"
        asked_again(store_to_spoil, "tasks")
        finding = CHECKS["tasks"]["splits_apart"](store_to_spoil, "tasks", store_to_spoil.places("tasks"))
        assert finding == (False, "1 questions are in both splits, as that of another")

    def test_the_question_of_another_suite_is_another(self, store_to_spoil):
        asked_again(store_to_spoil, "tasks")
        row = store_to_spoil.read("tasks", [LATER]).with_columns(suite=pl.lit("others"))
        overwrite(store_to_spoil, "tasks", row, at=LATER)
        assert CHECKS["tasks"]["splits_apart"](store_to_spoil, "tasks", store_to_spoil.places("tasks")).passed

    @pytest.mark.parametrize("table", ["pairs", "patches"])
    def test_nothing_to_train_on_is_no_failure(self, store_to_spoil, table):
        """A suite without reference solutions has no patches, and one that is all solved no pairs."""
        emptied(store_to_spoil, table)
        assert all(check(store_to_spoil, table, [HERE]).passed for check in CHECKS[table].values())

    @pytest.mark.parametrize("table", [table for table, found in CHECKS.items() if "as_written" in found])
    @pytest.mark.parametrize("damage", DAMAGED)
    def test_a_damaged_file_is_a_finding(self, store_to_spoil, table, damage):
        path = HERE.path(store_to_spoil.root, table)
        DAMAGED[damage](path)
        finding = CHECKS[table]["as_written"](store_to_spoil, table, [HERE])
        assert not finding.passed
        assert "train-000.parquet" in finding.detail
        assert "\n" not in finding.detail

    @pytest.mark.parametrize(
        ("check", "number", "column", "value", "said"),
        [
            pytest.param("parents_present", 2, "parent", 7, "name a parent that is not there", id="lost parent"),
            pytest.param("parents_present", 2, "context", 7, "name a context", id="lost context"),
            pytest.param("parents_present", 2, "copied_from", 7, "name a copied_from", id="lost original"),
            pytest.param("parents_present", 2, "depth", 9, "one deeper than their parent, as node 2", id="depth"),
            pytest.param("parents_present", 2, "context", 1, "the context they are in, as node 2", id="other context"),
            pytest.param("copies_exact", 4, "copied_from", 2, "as their originals, as node 4 of a@r0", id="a copy"),
            pytest.param("token_exact", 2, "parent", 7, "node 2: its parent 7", id="path broken"),
            pytest.param("token_exact", 2, "token_ids", [3, 8], "leaf 2 of a@r0", id="a token of a leaf"),
            pytest.param("token_exact", 3, "token_ids", [1, 8], "leaf 4 of a@r0", id="a token above a leaf"),
            pytest.param("token_exact", 0, "token_ids", [5, 7], "leaf 2 of a@r0", id="a token of the prompt"),
            pytest.param("token_exact", 4, "logprobs", [-0.5, -0.25], "leaf 4 of a@r0", id="a log-probability"),
            pytest.param("token_exact", 2, "request", "gone", "request gone", id="request not in the ledger"),
        ],
    )
    def test_spoiled_nodes_fail(self, store_to_spoil, check, number, column, value, said):
        rows = store_to_spoil.read("nodes", [HERE])
        values = [value if row["node"] == number else row[column] for row in rows.iter_rows(named=True)]
        overwrite(store_to_spoil, "nodes", rows.with_columns(pl.Series(column, values, dtype=rows.schema[column])))
        finding = CHECKS["nodes"][check](store_to_spoil, "nodes", [HERE])
        assert not finding.passed
        assert said in finding.detail

    def test_the_file_that_holds_the_row_is_named(self, store_to_spoil):
        """Of the stages of a shard, not the first."""
        row = store_to_spoil.read("nodes", [HERE])[-1:].with_columns(node=pl.lit(6, pl.Int32))
        overwrite(store_to_spoil, "nodes", row.with_columns(parent=pl.lit(5, pl.Int32)), at=LATER)
        finding = CHECKS["nodes"]["parents_present"](store_to_spoil, "nodes", [HERE, LATER])
        assert finding.detail.startswith(f"{LATER.name('nodes')}: 1 nodes name a parent")

    def test_a_task_in_two_row_groups_is_refused(self, store_to_spoil):
        straddled(store_to_spoil, "verdicts")
        finding = CHECKS["verdicts"]["as_written"](store_to_spoil, "verdicts", [HERE])
        assert not finding.passed
        assert "row groups are not of whole tasks" in finding.detail
