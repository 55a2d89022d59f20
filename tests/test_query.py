"""The DuckDB database over a small store: views, macros, quoting, refusals."""

import subprocess
import sys
import threading

import duckdb
import numpy as np
import polars as pl
import pytest

from pipeline.errors import BadConfig, BadTable
from pipeline.statistics import pass_at_k
from pipeline.store.layout import Place
from pipeline.store.query import count_rows, open_database, path_nodes, run_query, tree_nodes, write_database
from pipeline.store.store import Store
from schemas import TABLES
from schemas.base import column_types

TASK = {
    "task": "sums/easy/train/000000",
    "suite": "sums",
    "band": "easy",
    "split": "train",
    "question": "1 + 1",
    "answer": "2",
    "reference_solution": None,
    "verifier": "math",
    "info": None,
    "difficulty": 0.0,
}


def frame(table: str, rows: list[dict]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=column_types(TABLES[table]), orient="row")


def node(number: int, parent: int | None, origin: str, *, tree: str = "t", text: str = "", leaf: bool = False) -> dict:
    row = dict.fromkeys(column_types(TABLES["nodes"]))
    return row | {
        "task": tree,
        "tree": tree,
        "episode": tree,
        "node": number,
        "parent": parent,
        "context": 0,
        "depth": 0 if parent is None else 1,
        "turn": 0,
        "agent": "solver",
        "kind": "prompt" if parent is None else "step",
        "origin": origin,
        "sampled": False,
        "token_ids": [number],
        "text": text or f"step {number}",
        "finish": "stop" if leaf else None,
    }


def verdict(number: int, reward: float | None, *, tree: str = "t", version: str = "1") -> dict:
    row = {"task": tree, "tree": tree, "node": number, "verifier": "math", "version": version, "reward": reward}
    return row | {"parsed_answer": None, "error": None if reward is not None else "TimeoutError"}


def write(store: Store, table: str, rows: list[dict], *, stage: str, suite: str = "sums", round: str = "r0") -> None:
    store.write(table, frame(table, rows), Place(suite, round, stage, "train-000"), inputs={})


def forest(store: Store) -> Store:
    """Two trees of three samples each; a branch was grown in the first by a later stage.

    #      0             0
    #   1  3  5       1  2  3
    #  2 6 4
    Rewards of t: 2 right, 4 wrong, 5 judged only in the second go, 6 wrong. Of u: 1 right, 2 and 3 wrong.
    """
    write(store, "tasks", [TASK], stage="tasks", round="all")
    sampled = [
        node(0, None, "prompt"),
        node(1, 0, "sample"),
        node(2, 1, "sample", leaf=True),
        node(3, 0, "sample"),
        node(4, 3, "sample", leaf=True),
        node(5, 0, "sample", leaf=True),
        node(0, None, "prompt", tree="u"),
        *(node(number, 0, "sample", tree="u", leaf=True) for number in (1, 2, 3)),
    ]
    write(store, "nodes", sampled, stage="rollouts")
    write(store, "nodes", [node(6, 1, "branch", leaf=True)], stage="trees")
    judged = [verdict(2, 1.0), verdict(4, 0.0), verdict(5, None)]
    write(store, "verdicts", judged + [verdict(n, float(n == 1), tree="u") for n in (1, 2, 3)], stage="rollouts")
    write(store, "verdicts", [verdict(6, 0.0)], stage="trees")
    write(store, "verdicts", [verdict(5, 1.0)], stage="verdicts")
    return store


@pytest.fixture
def store(tmp_path) -> Store:
    return forest(Store(tmp_path / "store"))


def rows(store: Store, sql: str) -> list[tuple]:
    with open_database(store) as connection:
        return list(run_query(connection, sql).rows)


def test_empty_store_has_every_table_typed(tmp_path):
    with open_database(Store(tmp_path)) as connection:
        for name, table in TABLES.items():
            answer = run_query(connection, f"from {name}")
            assert answer.columns[: len(table.column_names())] == tuple(table.column_names())
            assert list(answer.rows) == []
        types = dict(run_query(connection, "select column_name, column_type from (describe nodes)").rows)
        assert [types[name] for name in ("node", "token_ids", "logprobs", "sampled", "round")] == [
            *("INTEGER", "INTEGER[]", "FLOAT[]", "BOOLEAN", "VARCHAR")
        ]
        assert list(run_query(connection, "from pass_at(1)").rows) == []


def test_rows_say_where_they_lie(store):
    assert rows(store, "select distinct suite, round, stage, shard from nodes order by stage") == [
        ("sums", "r0", "rollouts", "train-000"),
        ("sums", "r0", "trees", "train-000"),
    ]


def test_own_column_wins_over_the_place(store):
    request = dict.fromkeys(column_types(TABLES["requests"]))
    request |= {"task": "t", "request": "k", "stage": "retries", "sample_index": 0, "policy": "p", "engine": "vllm"}
    request |= {"sampling": "{}", "prompt_tokens": 1, "attempts": 1}
    write(store, "requests", [request], stage="rollouts")
    write(store, "tasks", [TASK | {"suite": "other", "task": "x"}], stage="tasks", round="all", suite="renamed")
    assert rows(store, "select stage, round from requests") == [("retries", "r0")]
    assert rows(store, "select suite, round, stage from tasks order by suite") == [
        ("other", "all", "tasks"),
        ("sums", "all", "tasks"),
    ]


def test_names_of_places_stay_text(store):
    write(store, "nodes", [node(0, None, "prompt", tree="v")], stage="3", suite="2024-01-01", round="007")
    assert rows(store, "select suite, round, stage from nodes where round = '007'") == [("2024-01-01", "007", "3")]


def test_view_sees_shards_written_later(tmp_path):
    store = Store(tmp_path)
    with open_database(store) as connection:
        assert list(run_query(connection, "select count(*) from nodes").rows) == [(0,)]
        forest(store)
        assert list(run_query(connection, "select count(*) from nodes").rows) == [(11,)]


@pytest.mark.parametrize("name", ["it's a store", 'dou"ble', "[1]*{a,b}", "%20 ünï", "a;drop table x--"])
def test_awkward_store_paths(tmp_path, name):
    (tmp_path / "1xa").mkdir()
    forest(Store(tmp_path / "1xa"))
    store = forest(Store(tmp_path / name))
    assert rows(store, "select count(*) from nodes") == [(11,)]
    with duckdb.connect(write_database(store), read_only=True) as connection:
        assert connection.execute("select count(*) from nodes").fetchall() == [(11,)]


def test_written_database_opens_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store(forest(Store(tmp_path / "store")).root.relative_to(tmp_path))
    path = write_database(store)
    write(store, "nodes", [node(0, None, "prompt", tree="later")], stage="rollouts", round="r1")
    ask = "import duckdb, sys; print(duckdb.connect(sys.argv[1], read_only=True).execute(sys.argv[2]).fetchall())"
    sql = "select (select count(*) from nodes), (select list(node) from path('t', 4))"
    done = subprocess.run(
        [sys.executable, "-c", ask, path.absolute(), sql], cwd="/", capture_output=True, text=True, check=True
    )
    assert done.stdout == "[(12, [0, 3, 4])]\n"
    assert sorted(file.name for file in store.root.iterdir() if file.is_file()) == ["branchpoint.duckdb"]
    assert write_database(store) == path


@pytest.mark.parametrize(
    ("call", "nodes"),
    [
        ("path('t', 6)", [0, 1, 6]),
        ("path('t', 0)", [0]),
        ("path('t', 99)", []),
        ("path('none', 0)", []),
        ("path(of_tree := 't', of_node := 4)", [0, 3, 4]),
        ("subtree('t', 1)", [1, 2, 6]),
        ("subtree('t', 0)", [0, 1, 2, 3, 4, 5, 6]),
        ("subtree('t', 5)", [5]),
        ("siblings('t', 1)", [3, 5]),
        ("siblings('t', 6)", [2]),
        ("siblings('t', 4)", []),
        ("siblings('t', 0)", []),
    ],
)
def test_tree_macros(store, call, nodes):
    assert rows(store, f"select node from {call}") == [(node,) for node in nodes]


def test_macro_beside_a_table(store):
    sql = "select leaves.node, list(path.node order by path.node) from leaves, path(leaves.tree, leaves.node) as path "
    assert rows(store, sql + "where leaves.tree = 't' group by all order by all") == [
        (2, [0, 1, 2]),
        (4, [0, 3, 4]),
        (5, [0, 5]),
        (6, [0, 1, 6]),
    ]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_pass_at(store, k):
    (row,) = rows(store, f"from pass_at({k})")
    assert row[:5] == ("sums", "r0", k, 2, 0)
    assert row[5] == pytest.approx(np.mean(pass_at_k([3, 3], [2, 1], k)))


@pytest.mark.parametrize(("k", "tasks"), [(4, (0, 2)), (0, (0, 2)), (-1, (0, 2))])
def test_pass_at_is_unknown_without_enough_samples(store, k, tasks):
    assert rows(store, f"from pass_at({k})") == [("sums", "r0", k, *tasks, None)]


def test_standing_verdicts(store):
    write(store, "verdicts", [verdict(4, 1.0, version="10"), verdict(2, None, version="11")], stage="verdicts")
    write(store, "verdicts", [verdict(4, 0.5, version="9")], stage="again")
    assert rows(store, "select node, reward, version from leaves where tree = 't' order by node") == [
        (2, 1.0, "1"),
        (4, 1.0, "10"),
        (5, None, None),
        (6, 0.0, "1"),
    ]


def test_columns_are_described(store):
    sql = "select comment from duckdb_columns() where table_name = 'nodes' and column_name = 'parent'"
    assert rows(store, sql) == [("What led to this node. Null: the root.",)]
    assert rows(store, "select comment from duckdb_views() where view_name = 'verdicts'") == [("A judged leaf.",)]


def test_no_extension_beyond_those_built_in(store):
    sql = "select distinct install_mode from duckdb_extensions() where loaded or installed"
    assert rows(store, f"from pass_at(1) limit 0; {sql}") == [("STATICALLY_LINKED",)]
    with pytest.raises(BadConfig, match=r"s3|httpfs|extension"):
        rows(store, "from read_parquet('s3://nowhere/x.parquet')")


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("from nods", 'Did you mean "nodes"'),
        ("select\n\nfrom from", "Parser Error"),
        ("select task::int from tasks", "Conversion Error"),
        ("select error('line one\n\nline two')", "line one line two"),
    ],
)
def test_refusals_take_one_line(store, sql, message):
    with pytest.raises(BadConfig) as refused:
        rows(store, sql)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("sql", ["", "-- nothing", ";"])
def test_nothing_asked_is_nothing_answered(store, sql):
    assert rows(store, sql) == []


def test_interrupt(store):
    with open_database(store) as connection:
        timer = threading.Timer(0.5, connection.interrupt)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            run_query(connection, "select sum(a.range * b.range) from range(1000000) a, range(1000000) b")
        timer.join()


def test_foreign_file_in_the_store(store):
    path = Place("sums", "r0", "trees", "train-001").path(store.root, "nodes")
    path.write_text("no parquet")
    with pytest.raises(BadTable, match=r"train-001\.parquet"):
        count_rows(store)
    with pytest.raises((BadTable, BadConfig), match=r"train-001\.parquet"):
        rows(store, "select count(*) from nodes")


def test_counts(store):
    counts = {(count.table, count.round, count.stage): (count.rows, count.shards) for count in count_rows(store)}
    assert counts == {
        ("tasks", "all", "tasks"): (1, 1),
        ("nodes", "r0", "rollouts"): (10, 1),
        ("nodes", "r0", "trees"): (1, 1),
        ("verdicts", "r0", "rollouts"): (6, 1),
        ("verdicts", "r0", "trees"): (1, 1),
        ("verdicts", "r0", "verdicts"): (1, 1),
    }


def test_nodes_to_show(store):
    with open_database(store) as connection:
        assert [(shown.node, shown.reward) for shown in tree_nodes(connection, "t")] == [
            *((0, None), (1, None), (2, 1.0), (3, None), (4, 0.0), (5, 1.0), (6, 0.0))
        ]
        assert [shown.node for shown in path_nodes(connection, "t", 6)] == [0, 1, 6]
        with pytest.raises(BadConfig, match="its nodes are 0 to 6"):
            path_nodes(connection, "t", 7)
        with pytest.raises(BadConfig, match="did you mean 'u'"):
            tree_nodes(connection, "uu")
