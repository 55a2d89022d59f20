"""The benches: what they count, that they are exact and what they call it. No timing bars: rates go to a report."""

import json
import os
import subprocess
import sys
from importlib import import_module

import numpy as np
import polars as pl
import pytest

from pipeline import cli
from pipeline.bench import BENCHES
from pipeline.bench import cli as cli_bench
from pipeline.bench import store as store_bench
from pipeline.bench.clock import median_seconds
from pipeline.bench.credit import largest_difference, plain_rows
from pipeline.bench.draw import draw_forest
from pipeline.bench.forest import PLACE, StoredForest
from pipeline.bench.metric import figure, ratio
from pipeline.bench.row_loops import ROW_LOOPS, Row, RowCredit
from pipeline.bench.run import print_metrics, run_benches
from pipeline.bench.shape import Shape
from pipeline.bench.store import jsonl_bytes, paths_frame
from pipeline.credit import METHODS
from pipeline.credit.columns import CreditColumns, Trees, trees_from_nodes
from pipeline.errors import BadConfig
from pipeline.report import silent
from pipeline.store.checks import parents_present
from schemas import Nodes, Verdicts

SMALL = Shape(tasks=3, branching=(3, 2, 2), prompt_tokens=8, step_tokens=5, unjudged=0.2)
FULL = Shape(tasks=2, branching=(3, 2), early_stop=0.0, prompt_tokens=8, step_tokens=5)
BY_METHOD = {"credit.rows_per_s", "credit.ratio_to_row_loop", "credit.max_abs_error", "credit.peak_mib"}
NAMES = {
    "forest": {"forest.path_unique_ratio", "forest.nodes", "forest.unique_tokens"},
    "credit": BY_METHOD,
    "store": {
        "store.bytes_per_unique_token",
        "store.ratio_to_jsonl",
        "store.write_tokens_per_s",
        "store.read_tokens_per_s",
    },
    "cli": {"cli.help_ms", "cli.modules_loaded", "cli.definitions_s"},
}


@pytest.fixture
def few_processes(monkeypatch):
    monkeypatch.setattr(cli_bench, "HELP_PROCESSES", 1)
    monkeypatch.setattr(cli_bench, "DEFINITIONS_PROCESSES", 1)


@pytest.mark.parametrize("name", BENCHES)
def test_metrics_are_named_and_divided(name, few_processes):
    if name == "cli":
        pytest.importorskip("dagster")
    metrics = list(run_benches([name], SMALL, silent))
    assert {metric.metric for metric in metrics} == NAMES[name]
    for metric in metrics:
        assert metric.value == metric.numerator / metric.denominator
        assert metric.unit
        assert json.loads(json.dumps(metric._asdict()))["metric"] == metric.metric
        assert metric.params
        assert name == "cli" or metric.params.items() >= SMALL.params().items()


def test_credit_is_exact_by_method():
    metrics = list(run_benches(["credit"], SMALL, silent))
    by_method = {name: {m.metric: m for m in metrics if m.params["method"] == name} for name in METHODS}
    for name, of in by_method.items():
        assert set(of) == BY_METHOD if name in ROW_LOOPS else set(of) < BY_METHOD
    assert all(m.value < 1e-6 for m in metrics if m.metric == "credit.max_abs_error")
    assert all(m.value > 0 for m in metrics if m.metric != "credit.max_abs_error")
    nodes = draw_forest(SMALL).nodes
    assert by_method["spo_tree"]["credit.rows_per_s"].numerator == len(nodes)
    assert by_method["grpo"]["credit.rows_per_s"].numerator == (nodes["origin"] != "branch").sum()


def test_method_without_a_loop_is_only_timed(monkeypatch):
    monkeypatch.delitem(ROW_LOOPS, "tempo")
    metrics = [m.metric for m in run_benches(["credit"], SMALL, silent) if m.params["method"] == "tempo"]
    assert metrics == ["credit.rows_per_s", "credit.peak_mib"]


def test_every_loop_is_of_a_method():
    assert set(ROW_LOOPS) <= set(METHODS)


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


def drawn_trees(seed: int) -> Trees:
    """Ragged trees with steps of no token, verdicts between 0 and 1, unjudged leaves and a tree with none judged."""
    random = np.random.default_rng(seed)
    parent, depth, tree = [], [], []
    for number in range(12):
        first = len(parent)
        for node in range(random.integers(1, 15)):
            above = first + random.integers(node) if node else -1
            parent.append(above)
            depth.append(depth[above] + 1 if node else 0)
            tree.append(number)
    tree, leaf = np.array(tree), np.ones(len(parent), dtype=bool)
    leaf[[above for above in parent if above >= 0]] = False
    rewards = random.choice([0.0, 0.25, 1 / 3, 1.0, np.nan], len(parent))
    offsets = np.concatenate(([0], np.cumsum(random.integers(0, 4, len(parent)))))
    return Trees(
        parent=np.array(parent, dtype=np.int32),
        depth=np.array(depth, dtype=np.int32),
        tree=tree.astype(np.int32),
        reward=np.where(leaf & (tree != 5), rewards, np.nan),
        tokens=random.integers(0, 3, offsets[-1]).astype(np.int32),
        token_offsets=offsets,
    )


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("method", ROW_LOOPS)
def test_methods_equal_their_loops_on_odd_trees(method, seed):
    trees = drawn_trees(seed)
    found = METHODS[method].function(trees, METHODS[method].params())
    assert largest_difference(found, ROW_LOOPS[method](plain_rows(trees))) < 1e-9


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


def test_forest_is_deterministic_by_seed(tmp_path):
    forests = [draw_forest(SMALL), draw_forest(SMALL), draw_forest(Shape(**{**SMALL.params(), "seed": 1}))]
    assert forests[0].nodes.equals(forests[1].nodes)
    assert forests[0].verdicts.equals(forests[1].verdicts)
    assert not forests[0].nodes.equals(forests[2].nodes)
    stores = [StoredForest(tmp_path / name, SMALL).store for name in "ab"]
    for table in ("nodes", "verdicts"):
        a, b = (PLACE.path(store.root, table).read_bytes() for store in stores)
        assert a == b


@pytest.mark.parametrize("shape", [SMALL, FULL, Shape(tasks=1, branching=(1,)), Shape(tasks=2, early_stop=1.0)])
def test_forest_is_what_stages_would_leave(shape, tmp_path):
    stored = StoredForest(tmp_path, shape)
    nodes, verdicts = stored.read()
    Nodes.validate(nodes)
    Verdicts.validate(verdicts)
    assert parents_present(stored.store, "nodes", [PLACE]).passed
    rows = {(row["tree"], row["node"]): row for row in nodes.iter_rows(named=True)}
    inner = {(row["tree"], row["parent"]) for row in rows.values()}
    judged = set(verdicts.select("tree", "node").iter_rows())
    assert judged == set(rows) - inner == {key for key, row in rows.items() if row["finish"]}
    for row in rows.values():
        above = rows.get((row["tree"], row["parent"]))
        assert row["depth"] == (above["depth"] + 1 if above else 0)
        assert row["text"].startswith(" ")
        assert (row["origin"] == "prompt") == (above is None) == (row["logprobs"] is None) == (row["request"] is None)
        if above and above["depth"] == 0:
            assert row["origin"] == "sample"
        elif above:
            assert row["origin"] in ("branch", above["origin"])
    written = nodes.filter("sampled").group_by("request").agg(pl.col("finish").count(), pl.col("origin").n_unique())
    assert written["finish"].unique().to_list() == [1]
    assert written["origin"].unique().to_list() == [1]


def test_full_forest_by_hand():
    nodes, verdicts = draw_forest(FULL)
    first = nodes.filter(pl.col("tree") == "bench/drawn/train/000000@r0")
    assert (len(nodes), len(verdicts)) == (20, 12)
    assert first["parent"].to_list() == [None, 0, 1, 1, 0, 4, 4, 0, 7, 7]
    assert first["origin"].to_list() == ["prompt", *("sample", "sample", "branch") * 3]
    assert first["request"].n_unique() == 1 + 6
    alike = draw_forest(Shape(**{**FULL.params(), "shared_tokens": 1e9}))
    samples = alike.nodes.filter((pl.col("depth") == 1) & (pl.col("tree") == first["tree"][0]))
    shortest = samples["token_ids"].list.len().min()
    assert samples["token_ids"].list.head(min(shortest, 16)).n_unique() == 1


@pytest.mark.parametrize("shape", [SMALL, FULL])
def test_forest_counts(shape):
    ratio_, nodes, tokens = run_benches(["forest"], shape, silent)
    rows = {(row["tree"], row["node"]): row for row in draw_forest(shape).nodes.iter_rows(named=True)}
    walked = 0
    for row in rows.values():
        step = row if row["finish"] else None
        while step:
            walked += len(step["token_ids"])
            step = rows.get((step["tree"], step["parent"]))
    assert ratio_.numerator == walked
    assert ratio_.denominator == tokens.value == sum(len(row["token_ids"]) for row in rows.values())
    assert nodes.value == len(rows)


def test_shares_of_a_larger_forest():
    nodes, verdicts = draw_forest(Shape(tasks=60))
    inner = nodes.filter(pl.col("depth").is_between(1, 2))
    assert inner["finish"].is_not_null().mean() == pytest.approx(0.1, abs=0.03)
    assert verdicts["reward"].is_null().mean() == pytest.approx(0.02, abs=0.01)
    assert 0.3 < verdicts["reward"].mean() < 0.7
    lengths = nodes.filter("sampled")["token_ids"].list.len()
    assert lengths.median() == pytest.approx(40, abs=2)
    assert lengths.log().std() == pytest.approx(0.7, abs=0.05)


@pytest.mark.parametrize(
    ("of", "message"),
    [
        ({"tasks": 0}, "0 tasks cannot be grown; give at least 1 with --tasks"),
        ({"seed": -1}, "seed -1 is negative"),
        ({"branching": ()}, "without children"),
        ({"branching": (2, 0)}, "without children"),
    ],
)
def test_no_such_forest(of, message):
    with pytest.raises(BadConfig, match=message):
        Shape(**of)


def test_store_counts_bytes_of_its_files(tmp_path):
    stored = StoredForest(tmp_path, SMALL)
    size = PLACE.path(stored.store.root, "nodes").stat().st_size
    metrics = list(run_benches(["store"], SMALL, silent))
    sizes = {m.params["columns"]: m.numerator for m in metrics if m.metric == "store.bytes_per_unique_token"}
    assert sizes["all"] == size > sizes["all but text"]
    beside = {m.params["jsonl"]: m for m in metrics if m.metric == "store.ratio_to_jsonl"}
    assert {m.denominator for m in beside.values()} == {size}
    assert beside["none"].numerator > beside["zstd 3"].numerator


def test_paths_are_whole(monkeypatch):
    nodes, verdicts = draw_forest(FULL)
    trees = trees_from_nodes(nodes, verdicts)
    leaves = np.flatnonzero(trees.leaves())
    frame = paths_frame(nodes, trees, leaves)
    rows = nodes.rows(named=True)
    for row, leaf in zip(frame.iter_rows(named=True), leaves.tolist(), strict=True):
        prompt, step = rows[trees.parent[trees.parent[leaf]]], rows[trees.parent[leaf]]
        end = rows[leaf]
        assert (row["tree"], row["node"], row["prompt_ids"]) == (end["tree"], end["node"], prompt["token_ids"])
        assert row["answer_ids"] == step["token_ids"] + end["token_ids"]
        assert row["logprobs"] == step["logprobs"] + end["logprobs"]
        assert (row["prompt"], row["answer"]) == (prompt["text"], step["text"] + end["text"])
    for at_once in (1, 2, 3):
        monkeypatch.setattr(store_bench, "TREES_AT_ONCE", at_once)
        assert jsonl_bytes(nodes, trees)[0] == len(frame.write_ndjson().encode())


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


def test_command_runs_all_by_default(monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(
        "pipeline.bench.run.run_benches", lambda names, shape, on_progress: ran.append((names, shape)) or iter(())
    )
    assert cli.main(["bench"]) == 0
    assert ran == [(tuple(BENCHES), Shape())]


def test_table(capsys):
    metrics = [
        ratio("a.ratio", 7_529_049, 1_513_722, unit="x", params={**SMALL.params(), "leaves": 5}),
        figure("a.error", 1.25e-16, unit="credit", params={**SMALL.params(), "sample_trees": 3}),
    ]
    print_metrics(metrics, SMALL, to=sys.stdout)
    out = capsys.readouterr().out
    assert out.startswith("forest: tasks 3, seed 0, branching (3, 2, 2), ")
    lines = [line.split() for line in out.splitlines()]
    assert ["a.ratio", "4.974", "x", "7,529,049", "/", "1,513,722", "leaves", "5"] in lines
    assert ["a.error", "1.25e-16", "credit", "sample", "trees", "3"] in lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("forst",), "bench 'forst' does not exist; did you mean 'forest'?"),
        (("forest", "stor"), "did you mean 'store'?"),
        (("--tasks", "0"), "at least 1 with --tasks"),
        (("--tasks", "x"), "invalid int value"),
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
