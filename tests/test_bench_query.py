"""Bench `query`: that answers are held against what was drawn, and credit of many steps against its loop."""

import json
from dataclasses import replace

import polars as pl
import pytest

from pipeline.bench import query as query_bench
from pipeline.bench import steps
from pipeline.bench.forest import StoredForest, sized, slice_of, slices_of, write_forest
from pipeline.bench.metric import Metric
from pipeline.bench.query import Asked
from pipeline.bench.run import run_benches
from pipeline.bench.shape import Shape, Sizes
from pipeline.report import silent
from pipeline.store.query import open_database
from pipeline.store.store import Store
from schemas import TABLES

VARIED = Shape(
    tasks=30, branching=(3, 2, 2), prompt_tokens=8, step_tokens=5, retried=1.0, intervened=1.0, shard_tasks=12
)


@pytest.fixture
def small_slices(monkeypatch):
    monkeypatch.setattr("pipeline.bench.forest.slice_tasks", lambda shape: 5)


@pytest.fixture(scope="module")
def measured() -> list[Metric]:
    return list(run_benches(["query"], VARIED, silent, sizes=Sizes(nodes=400, leaves=100, trees=20, rows=1000)))


def of(metrics: list[Metric], name: str) -> list[Metric]:
    return [metric for metric in metrics if metric.metric == name]


def test_slices_of_tasks(small_slices):
    ranges = list(slices_of(VARIED))
    assert ranges == [(0, 5), (5, 5), (10, 2), (12, 5), (17, 5), (22, 2), (24, 5), (29, 1)]
    for first, count in ranges:
        assert {slice_of(VARIED, task) for task in range(first, first + count)} == {(first, count)}


def test_forest_has_about_the_nodes_asked_for(tmp_path):
    assert write_forest(Store(tmp_path), sized(VARIED, 2_000)).nodes == pytest.approx(2_000, rel=0.1)


def test_every_query_is_measured(measured):
    queries = {metric.params["query"]: metric for metric in of(measured, "query.ms")}
    assert list(queries) == ["task", "path", "subtree", "pass_rate_top10", "all_path_tokens"]
    (first,) = of(measured, "query.first_ms")
    for metric in (*queries.values(), first):
        assert metric.params["nodes"] == pytest.approx(400, rel=0.3)
        assert metric.params["node_files"] == 4


def test_leaves_are_identical(measured):
    (leaves,) = of(measured, "query.leaves_per_s")
    assert leaves.numerator == leaves.params["identical"] == 100


def test_leaves_over_shards(tmp_path, small_slices):
    stored = StoredForest(tmp_path, VARIED)
    leaves = stored.drawn.counts.leaves
    for count in (1, leaves - 1, leaves):
        metric = query_bench._leaves(stored.store, VARIED, count, {})
        assert metric.numerator == metric.params["identical"] == count
    assert metric.params["leaf_tokens"] == stored.drawn.counts.path_tokens
    assert metric.params["leaf_tasks"] == VARIED.tasks


def test_other_leaves_are_not_identical(tmp_path):
    store = StoredForest(tmp_path, VARIED).store
    with pytest.raises(ValueError, match="leaf 0 has other token ids than were drawn"):
        query_bench._leaves(store, replace(VARIED, shared_tokens=9.0), 10, {})


def test_answers_are_held_against_what_was_drawn(tmp_path, small_slices):
    stored = StoredForest(tmp_path, VARIED)
    counts = stored.drawn.counts
    nodes = stored.read("nodes")
    with open_database(stored.store) as connection:
        for task in (0, 11, 12, 29):
            for query in (query_bench._task, query_bench._path, query_bench._subtree):
                query_bench._ask(connection, query(VARIED, task))
            whole = nodes.filter(pl.col("task") == f"bench/drawn/train/{task:07d}")
            tree = query_bench._tree(VARIED, task)
            ends = whole.filter(pl.col("finish").is_not_null() & (pl.col("kind") == "step"))
            assert (tree.nodes, tree.on_path) == (len(whole), ends["depth"].max() + 1)
        query_bench._ask(connection, query_bench._pass_rates(VARIED, counts))
        query_bench._ask(connection, query_bench._all_paths(counts))
        for wrong in (
            query_bench._task(VARIED, 3)._replace(parameters=("none",)),
            query_bench._pass_rates(VARIED, counts._replace(judged=counts.judged + 1)),
            query_bench._all_paths(counts._replace(path_tokens=1)),
            Asked("select 1", (), lambda rows: False),
        ):
            with pytest.raises(ValueError, match="does not answer what was drawn"):
                query_bench._ask(connection, wrong)


def test_stores_are_opened_with_and_without_their_catalogue(measured):
    opened = of(measured, "query.open_s")
    assert [metric.params["catalogue"] for metric in opened] == ["kept", "lost"]
    for metric in opened:
        assert (metric.params["trees"], metric.params["files"]) == (20, 4)
        assert 0 < metric.params["imports_s"] < metric.value


def test_the_stage_over_many_steps(measured):
    (rate,), (peak,) = of(measured, "query.stream_rows_per_s"), of(measured, "query.stream_peak_mib")
    (error,) = of(measured, "query.stream_max_abs_error")
    tasks = 1000 // steps.TASK_STEPS
    assert rate.numerator == peak.params["rows"] == tasks * (1 + steps.TASK_STEPS)
    assert 0 < peak.params["imported_mib"] < peak.value
    assert error.params["checked_tasks"] == tasks
    assert error.value < 1e-6


@pytest.mark.parametrize("at_once", [1, 10_000])
def test_credit_of_steps(tmp_path, monkeypatch, capsys, at_once):
    monkeypatch.setattr("pipeline.stages.credit.BATCH_ROWS", at_once)
    monkeypatch.setattr(steps, "DRAWN_TASKS", 3)
    monkeypatch.setattr(steps, "CHECKED", 7)
    store = Store(tmp_path)
    steps.write_steps(store, 10, seed=0)
    steps.credit_steps(str(tmp_path), 10)
    assert json.loads(capsys.readouterr().out)["rows"] == 10 * (1 + steps.TASK_STEPS)
    for table in ("tasks", "nodes", "verdicts", "credit"):
        TABLES[table].validate(store.read(table, store.places(table)))
    assert steps.largest_error(store, 10, seed=0) < 1e-6
    assert steps.largest_error(store, 10, seed=1) > 0.1
    with pytest.raises(ValueError, match="did not credit the 9 tasks that were drawn"):
        steps.largest_error(store, 9, seed=0)


def test_drawn_steps_are_the_rows_of_the_loop(tmp_path):
    store = Store(tmp_path)
    steps.write_steps(store, 2, seed=0)
    nodes, verdicts = (store.read(table, store.places(table)) for table in ("nodes", "verdicts"))
    judged = nodes.join(verdicts, on=["tree", "node"], how="left", maintain_order="left")
    for task in (0, 1):
        drawn = judged.filter(pl.col("task") == f"bench/drawn/train/{task:07d}")
        rows = steps._rows(task, 2, 0)
        assert drawn["parent"].fill_null(-1).to_list() == [row.parent for row in rows]
        assert drawn["reward"].to_list() == [row.reward for row in rows]
    assert nodes["finish"].drop_nulls().len() == verdicts.height == 2 * steps.ATTEMPTS
