"""The benches: what they count, that they are exact and what they call it. No timing bars: rates go to a report."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib import import_module

import numpy as np
import polars as pl
import pytest

from pipeline import cli
from pipeline.bench import BENCHES, gen
from pipeline.bench import cli as cli_bench
from pipeline.bench.clock import median_seconds
from pipeline.bench.credit import WITH_READ, Large, largest_difference
from pipeline.bench.credit_inputs import DRAWN, first_trees, flat_groups, read_trees, with_needs
from pipeline.bench.forest import StoredForest
from pipeline.bench.metric import figure, ratio
from pipeline.bench.row_loops import ROW_LOOPS, Row, RowCredit
from pipeline.bench.run import print_metrics, run_benches
from pipeline.bench.shape import SHAPES, Shape, Sizes
from pipeline.credit import METHODS, in_every_round
from pipeline.credit.columns import CreditColumns, Method, Trees
from pipeline.credit.inputs import INPUTS, NODE
from pipeline.errors import BadTable
from pipeline.report import silent

SMALL = Shape(tasks=3, branching=(3, 2, 2), prompt_tokens=8, step_tokens=5, unjudged=0.2, retried=1.0)
FEW = Sizes(nodes=200, leaves=20, trees=3, rows=200)
WITH_READ_TOO = {"credit.read_rows_per_s", "credit.read_over_decode"}
BY_METHOD = {"credit.rows_per_s", "credit.ratio_to_row_loop", "credit.max_abs_error", "credit.peak_mib"}
NAMES = {
    "forest": {"forest.path_unique_ratio", "forest.nodes", "forest.unique_tokens"},
    "credit": BY_METHOD | WITH_READ_TOO,
    "store": {
        "store.bytes_per_unique_token",
        "store.ratio_to_jsonl",
        "store.dedup",
        "store.write_tokens_per_s",
        "store.read_tokens_per_s",
        "store.reupload_share",
    },
    "query": {
        "query.first_ms",
        "query.ms",
        "query.leaves_per_s",
        "query.open_s",
        "query.stream_rows_per_s",
        "query.stream_peak_mib",
        "query.stream_max_abs_error",
    },
    "gen": {"gen.decode_waste", "gen.prefill_waste", "gen.makespan_over_bound", "gen.edge_prefill"},
    "labels": {
        "gen.labels_per_mtoken",
        "gen.labels_at_equal_mse",
        "gen.labels_at_equal_side",
        "gen.first_errors_per_mtoken",
    },
    "import": {"import.steps_per_s"},
    "cli": {"cli.help_ms", "cli.modules_loaded", "cli.definitions_s"},
}


@pytest.fixture(autouse=True)
def small_credit(monkeypatch):
    monkeypatch.setattr("pipeline.bench.credit.LARGE", {})
    monkeypatch.setattr("pipeline.bench.credit.LOOP_SECONDS", 1e-9)


@pytest.fixture
def few_processes(monkeypatch):
    monkeypatch.setattr(cli_bench, "HELP_PROCESSES", 1)
    monkeypatch.setattr(cli_bench, "DEFINITIONS_PROCESSES", 1)


@pytest.fixture
def few_changes(monkeypatch):
    monkeypatch.setattr("pipeline.bench.reupload.TASKS", 40)


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr("pipeline.bench.imports.STEPS", 40)


@pytest.fixture
def few_trees(monkeypatch):
    small = replace(gen.MATH, trees=2, prompt=40, answer=20, slots=4)
    monkeypatch.setattr(gen, "LOADS", (small,))
    monkeypatch.setattr(gen, "OURS", (small,))
    monkeypatch.setattr(gen, "STRATEGIES", replace(gen.STRATEGIES, trees=1, answer=60))
    monkeypatch.setattr(gen, "EDGES", replace(gen.EDGES, trees=1, answer=60))


@pytest.fixture
def few_labels(monkeypatch):
    monkeypatch.setattr("pipeline.bench.labels_per_token.TASKS", 3)


@pytest.mark.parametrize("name", [name for name in BENCHES if name not in ("train", "score")])
def test_metrics_are_named_and_divided(name, few_processes, few_changes, few_trees, few_steps, few_labels):
    if name == "cli":
        pytest.importorskip("dagster")
    metrics = list(run_benches([name], SMALL, silent, sizes=FEW))
    assert {metric.metric for metric in metrics} == NAMES[name]
    for metric in metrics:
        assert metric.value == metric.numerator / metric.denominator
        assert metric.unit
        assert json.loads(json.dumps(metric._asdict()))["metric"] == metric.metric
        assert metric.params


def test_credit_is_exact_by_method(tmp_path):
    metrics = list(run_benches(["credit"], SMALL, silent, sizes=FEW))
    assert SMALL.repeated_states is None
    by_method = {name: {m.metric: m for m in metrics if m.params["method"] == name} for name in METHODS}
    for name, of in by_method.items():
        assert set(of) == BY_METHOD | (WITH_READ_TOO if name == WITH_READ else set())
    assert all(m.value < 1e-6 for m in metrics if m.metric == "credit.max_abs_error")
    assert all(m.value > 0 for m in metrics if m.metric != "credit.max_abs_error")
    nodes = StoredForest(tmp_path, SMALL).read("nodes")
    nodes = nodes.filter((pl.col("origin") != "prompt") | (pl.col("parent").is_null()))
    for name, method in METHODS.items():
        if in_every_round(method):
            seen = nodes.filter(pl.col("origin").is_in(method.origins))
            assert by_method[name]["credit.rows_per_s"].numerator == len(seen)


def test_method_without_a_loop_is_only_timed(monkeypatch):
    monkeypatch.delitem(ROW_LOOPS, "tempo")
    metrics = [m.metric for m in run_benches(["credit"], SMALL, silent, sizes=FEW) if m.params["method"] == "tempo"]
    assert metrics == ["credit.rows_per_s", "credit.peak_mib"]


def test_large_forests_have_the_size_asked_for(monkeypatch):
    large = {"grpo": Large("rows", 5_000), "tempo": Large("tokens", 90_000), "gigpo": Large("rows", 9_000, repeats=1)}
    monkeypatch.setattr("pipeline.bench.credit.LARGE", large)
    metrics = [m for m in run_benches(["credit"], SMALL, silent, sizes=FEW) if "large" in m.metric]
    assert [(m.metric, m.params["method"]) for m in metrics] == [
        ("credit.large_rows_per_s", "grpo"),
        ("credit.large_tokens_per_s", "tempo"),
        ("credit.large_rows_per_s", "gigpo"),
    ]
    for metric in metrics:
        asked = large[metric.params["method"]]
        assert 0.9 < metric.numerator / asked.size < 1.2
        assert metric.numerator == metric.params[asked.per]


def of_everything(trees: Trees, params: object) -> CreditColumns:
    for name, values in trees.given.items():
        assert len(values) == (len(trees.parent) if INPUTS[name].per == NODE else trees.token_offsets[-1])
        assert isinstance(values, pl.Series) == INPUTS[name].description.startswith("polars strings")
    assert {*trees.given, "tokens"} == set(INPUTS)
    return CreditColumns(advantage=np.zeros(len(trees.parent)))


def test_a_method_of_any_inputs_is_timed(monkeypatch):
    method = Method(of_everything, origins=("prompt", "sample"), params=dict, needs=tuple(INPUTS))
    monkeypatch.setitem(METHODS, "of_everything", method)
    metrics = run_benches(["credit"], SMALL, silent, sizes=FEW)
    timed = [m.metric for m in metrics if m.params["method"] == "of_everything"]
    assert timed == ["credit.rows_per_s", "credit.peak_mib"]


def refuse(trees: Trees, params: object) -> CreditColumns:
    raise BadTable("scores: not as they must be", remedy="write them again")


def test_a_method_that_refuses_what_is_drawn_is_passed_over(monkeypatch):
    monkeypatch.setitem(METHODS, "refuse", Method(refuse, origins=("prompt", "sample"), params=dict))
    assert "refuse" not in {m.params["method"] for m in run_benches(["credit"], SMALL, silent, sizes=FEW)}


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_first_trees_are_those_of_the_forest_over_again(tmp_path, count):
    needs = ("tokens", "text", "logprobs")
    method = Method(of_everything, origins=("prompt", "sample", "branch"), params=dict, needs=needs)
    forest = read_trees(StoredForest(tmp_path, SMALL), method)
    some = first_trees(forest, count)
    assert some.tree[-1] + 1 == count
    for tree in range(count):
        (mine,), (theirs,) = (np.nonzero(trees.tree == code) for trees, code in ((some, tree), (forest, tree % 3)))
        np.testing.assert_array_equal(some.reward[mine], forest.reward[theirs])
        np.testing.assert_array_equal(some.depth[mine], forest.depth[theirs])
        np.testing.assert_array_equal(some.parent[mine][1:] - mine[0], forest.parent[theirs][1:] - theirs[0])
        assert some.given["text"][mine].to_list() == forest.given["text"][theirs].to_list()
        (mine,), (theirs,) = (
            np.nonzero(np.repeat(trees.tree, trees.token_counts()) == code)
            for trees, code in ((some, tree), (forest, tree % 3))
        )
        np.testing.assert_array_equal(some.tokens[mine], forest.tokens[theirs])
        np.testing.assert_array_equal(some.given["logprobs"][mine], forest.given["logprobs"][theirs])


def test_flat_groups():
    trees = flat_groups(3, size=2, seed=1)
    assert trees.parent.tolist() == [-1, 0, 0, -1, 3, 3, -1, 6, 6]
    assert trees.tree.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert np.isnan(trees.reward).tolist() == [True, False, False] * 3


def test_inputs_are_drawn_by_seed(tmp_path):
    for method in (METHODS["gtalign"], METHODS["vsrm"], METHODS["gigpo"], METHODS["san"]):
        read = read_trees(StoredForest(tmp_path, replace(SMALL, tasks=40)), method)
        one, same, other = (with_needs(read, method, seed=seed) for seed in (0, 0, 1))
        for name in method.needs:
            assert list(map(str, one.given[name])) == list(map(str, same.given[name]))
            if name in DRAWN:
                assert list(map(str, one.given[name])) != list(map(str, other.given[name]))


#       0         the question
#    1    4  5    three samples, the last not judged
#   2 3           a fork
HAND = [
    Row(-1, 0, None, [9]),
    Row(0, 0, None, [1, 2]),
    Row(1, 0, 1.0, [3]),
    Row(1, 0, 0.0, [4]),
    Row(0, 0, 0.0, [1, 5]),
    Row(0, 0, None, [1]),
]
NA = None
THIRD, SPREAD = 1 / 3, np.sqrt(1 / 3) + 1e-6
GRPO = np.array([2 / 3, -1 / 3, -1 / 3]) / SPREAD
TEMPO = {
    1: np.array([1 / 6, 1 / 6 + 1 / 6]) / SPREAD,
    2: np.array([2 / 3 + 1 / 2]) / SPREAD,
    3: np.array([-1 / 3 - 1 / 2]) / SPREAD,
    4: np.array([-1 / 3, -1 / 3 - 1 / 3]) / SPREAD,
}


@pytest.mark.parametrize(
    ("method", "value", "advantage"),
    [
        ("grpo", NA, (0, GRPO[:2].mean(), GRPO[0], GRPO[1], GRPO[2], NA)),
        ("spo_tree", (1 / 4, 1 / 2, 1, 0, 0, NA), (0, 1 / 4, 1 / 2, -1 / 2, -1 / 4, NA)),
        ("tempo", (THIRD, 1 / 2, 1, 0, 0, NA), (0, *(TEMPO[node].mean() for node in (1, 2, 3, 4)), NA)),
    ],
)
def test_loops_by_hand(method, value, advantage):
    found = ROW_LOOPS[method](HAND)
    assert (found.value is None) == (value is None)
    for numbers, expected in ((found.value or (), value or ()), (found.advantage, advantage)):
        assert [number is None for number in numbers] == [number is None for number in expected]
        np.testing.assert_allclose([n for n in numbers if n is not None], [n for n in expected if n is not None])


def test_tempo_loop_by_token():
    found = ROW_LOOPS["tempo"](HAND).token_advantages
    assert (found[0], found[5]) == ([0.0], [None])
    for node, expected in TEMPO.items():
        np.testing.assert_allclose(found[node], expected)


def test_largest_difference_sees_every_column():
    columns = {
        "value": np.array([0.5, np.nan]),
        "advantage": np.array([0.0, 1.0]),
        "mask": np.array([False, True]),
        "token_advantages": np.array([0.0, np.nan, 2.0]),
    }
    same = RowCredit([0.5, NA], [0.0, 1.0], [False, True], [[0.0], [NA, 2.0]])
    found = CreditColumns(**columns)
    assert largest_difference(found, same) == 0
    assert largest_difference(found, same._replace(value=[0.25, NA])) == 0.25
    assert largest_difference(found, same._replace(advantage=[0.0, 3.0])) == 2
    assert largest_difference(found, same._replace(mask=[True, True])) == 1
    assert largest_difference(found, same._replace(token_advantages=[[0.0], [NA, 2.5]])) == 0.5
    with pytest.raises(ValueError, match=r"value 1 is nan by the method, 0\.0 by the loop"):
        largest_difference(found, same._replace(value=[0.5, 0.0]))
    with pytest.raises(ValueError, match="column mask is in only one"):
        largest_difference(found, same._replace(mask=None))


def test_calls_take_turns():
    calls = []
    seconds = median_seconds(lambda: calls.append("a"), lambda: calls.append("b"), repeats=2)
    assert calls == ["a", "b"] * 3
    assert len(seconds) == 2


def test_command_prints_json_lines(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cli.main(["bench", "forest", "forest", "--json", "--tasks", "2", "--seed", "7"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    found = [json.loads(line) for line in said.out.splitlines()]
    assert [metric["metric"] for metric in found] == [
        "forest.path_unique_ratio",
        "forest.nodes",
        "forest.unique_tokens",
    ]
    for metric in found:
        assert list(metric) == ["metric", "value", "numerator", "denominator", "unit", "params"]
        assert (metric["params"]["tasks"], metric["params"]["seed"]) == (2, 7)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "names", "shape", "sizes"),
    [
        ([], tuple(BENCHES), SHAPES["mixed"], Sizes()),
        (["store", "--shape", "math"], ("store",), SHAPES["math"], Sizes()),
        (
            ["query", "--tasks", "9", "--shard-tasks", "4", "--seed", "2", "--nodes", "7", "--rows", "8"],
            ("query",),
            replace(SHAPES["mixed"], tasks=9, shard_tasks=4, seed=2),
            Sizes(nodes=7, rows=8),
        ),
    ],
)
def test_command_chooses(monkeypatch, arguments, names, shape, sizes):
    ran = []

    def run(names, shape, on_progress, *, sizes, engine):
        ran.append((names, shape, sizes))
        return iter(())

    monkeypatch.setattr("pipeline.bench.run.run_benches", run)
    assert cli.main(["bench", *arguments]) == 0
    assert ran == [(names, shape, sizes)]


def test_table(capsys):
    metrics = [
        ratio("a.ratio", 7_529_049, 1_513_722, unit="x", params={**SMALL.params(), "leaves": 5}),
        figure("a.error", 1.25e-16, unit="credit", params={**SMALL.params(), "sample_trees": 3}),
        figure("a.larger", 1, unit="rows", params={**SMALL.params(), "tasks": 9}),
    ]
    print_metrics(metrics, SMALL, to=sys.stdout)
    out = capsys.readouterr().out
    assert out.startswith("forest: tasks 3, seed 0, branching (3, 2, 2), ")
    lines = [line.split() for line in out.splitlines()]
    assert ["a.ratio", "4.974", "x", "7,529,049", "/", "1,513,722", "leaves", "5"] in lines
    assert ["a.error", "1.25e-16", "credit", "sample", "trees", "3"] in lines
    assert ["a.larger", "1", "rows", "tasks", "9"] in lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("forst",), "bench 'forst' does not exist; did you mean 'forest'?"),
        (("forest", "stor"), "did you mean 'store'?"),
        (("--tasks", "0"), "at least 1 with --tasks"),
        (("--tasks", "x"), "invalid int value"),
        (("--shape", "maths"), "shape 'maths' does not exist; did you mean 'math'?"),
        (("--shard-tasks", "0"), "at least 1 with --shard-tasks"),
        (("query", "--rows", "0"), "0 rows are too few"),
        (("--store", "here"), "'--store' is not understood"),
    ],
)
def test_misuse_is_one_line(capsys, arguments, message):
    code = cli.main(["bench", *arguments])
    said = capsys.readouterr()
    assert (code, said.out, said.err.count("\n")) == (cli.BAD_USE, "", 1)
    assert message in said.err


@pytest.mark.parametrize("arguments", [["--help"], ["bench", "--help"], ["bench", "forst"]])
def test_command_is_light_until_it_runs(arguments):
    code = f"""
import sys
from pipeline.cli import main
try:
    main({arguments})
except SystemExit:
    pass
print(sorted(set(sys.modules) & set({cli_bench.HEAVY})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_bench_has_a_measure():
    assert all(callable(import_module(module).measure) for module in BENCHES.values())
