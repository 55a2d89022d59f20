"""Views and macros over a small store: what they hold, which files they open, what older files and later ones give."""

from __future__ import annotations

import re
import shutil

import duckdb
import pytest
from two_trees import TASK, forest, node, older, rows, verdict, write

from pipeline.errors import BadConfig
from pipeline.store.layout import Place
from pipeline.store.query import ask, open_database, path_nodes, run_query, tree_nodes, write_database
from pipeline.store.store import Store
from schemas import TABLES
from schemas.base import column_types
from schemas.versions import version_of


@pytest.fixture
def store(tmp_path) -> Store:
    return forest(Store(tmp_path / "store"))


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


ADDED = [
    ("nodes", "token_count", 1),
    ("verdicts", "components", "{}"),
    ("tasks", "tools", "[]"),
    ("requests", "reused", False),
    ("step_labels", "tool_exit", 0),
]
MADE = {
    "nodes": node(0, None, "prompt"),
    "verdicts": verdict(0, 1.0) | {"components": "{}"},
    "tasks": TASK | {"task": "t", "tools": "[]"},
    "requests": {"task": "t", "request": "k", "stage": "rollouts", "sample_index": 0, "policy": "p", "engine": "vllm"}
    | {"sampling": "{}", "prompt_tokens": 1, "attempts": 1, "reused": False},
    "step_labels": {"task": "t", "tree": "t", "node": 0, "labeller": "l", "version": "1", "tool_exit": 0},
}


@pytest.mark.parametrize(("table", "column", "value"), ADDED, ids=[table for table, *_ in ADDED])
@pytest.mark.parametrize("old", ["train-000", "train-001"], ids=["older first", "older last"])
def test_a_column_that_older_files_lack_is_null(tmp_path, table, column, value, old):
    store, every = Store(tmp_path), dict.fromkeys(column_types(TABLES[table]))
    for shard in ("train-000", "train-001"):
        write(store, table, [every | MADE[table]], stage="rollouts", shard=shard)
    older(Place("sums", "r0", "rollouts", old).path(tmp_path, table), table)
    expected = [(shard, None if shard == old else value) for shard in ("train-000", "train-001")]
    assert rows(store, f"select shard, {column} from {table} order by shard") == expected
    assert rows(store, f"select shard, {column} from task_{table}('t') order by shard") == expected
    assert rows(store, "select version from shards order by shard") == [
        (1 if shard == old else version_of(table),) for shard, _ in expected
    ]


def test_only_older_files(tmp_path):
    store = Store(tmp_path)
    write(store, "nodes", [node(0, None, "prompt")], stage="rollouts")
    older(Place("sums", "r0", "rollouts", "train-000").path(tmp_path, "nodes"), "nodes")
    assert rows(store, "select node, token_count from nodes") == [(0, None)]


def files_read(store: Store, sql: str) -> list[int]:
    """Files that each scan of a query opened."""
    with open_database(store) as connection:
        (plan,) = run_query(connection, f"explain analyze {sql}").rows
    return [int(count) for count in re.findall(r"Total Files Read: (\d+)", plan[1])]


def test_only_what_may_hold_a_task_is_opened(tmp_path):
    store = Store(tmp_path)
    for shard in range(9):
        tree = f"t{shard}"
        write(store, "nodes", [node(0, None, "prompt", tree=tree)], stage="rollouts", shard=f"train-{shard:03}")
        write(store, "nodes", [node(1, 0, "branch", tree=tree, leaf=True)], stage="trees", shard=f"train-{shard:03}")
    assert rows(store, "select node from tree_nodes('t4')") == [(0,), (1,)]
    assert files_read(store, "select node from tree_nodes('t4')") == [3], "the one without rows says the columns"
    assert files_read(store, "select node from task_nodes('t4')") == [3]
    assert files_read(store, "select node from tree_nodes('none')") == [1]
    assert files_read(store, "select node from nodes where tree = 't4'") == [18]
    assert files_read(store, "select node from nodes where stage = 'trees' and shard < 'train-003'") == [3]
    assert files_read(store, "select node from nodes where not list_contains(['rollouts'], stage)") == [9]
    own = "select file from shards where table_name = 'nodes' and first_task = 't4'"
    assert files_read(store, f"select node from nodes where file in ({own})") == [2]


def test_what_says_the_columns_may_go(tmp_path):
    store = Store(tmp_path)
    write(store, "nodes", [node(0, None, "prompt", tree="t")], stage="rollouts")
    path = write_database(store)
    assert sorted(made.name for made in (tmp_path / ".empty").iterdir())[0].startswith("credit-2")
    shutil.rmtree(tmp_path / ".empty")
    with duckdb.connect(path, read_only=True) as connection:
        assert connection.execute("select node from tree_nodes('t')").fetchall() == [(0,)]
    assert rows(store, "select node from tree_nodes('t')") == [(0,)]
    (spoilt,) = (tmp_path / ".empty").glob("nodes-*")
    spoilt.write_bytes(spoilt.read_bytes()[:-9])
    assert rows(store, "select node from tree_nodes('t')") == [(0,)]
    shutil.rmtree(tmp_path / ".empty")
    (tmp_path / ".empty").write_text("in the way")
    assert rows(store, "select node from tree_nodes('t')") == [(0,)]
    assert rows(store, "select node from tree_nodes('none')") == []


def test_files_are_told(store):
    assert rows(
        store,
        "select table_name, suite, round, stage, shard, version, rows, first_task, last_task from shards "
        "where table_name in ('nodes', 'tasks') order by all",
    ) == [
        ("nodes", "sums", "r0", "rollouts", "train-000", version_of("nodes"), 10, "t", "u"),
        ("nodes", "sums", "r0", "trees", "train-000", version_of("nodes"), 1, "t", "t"),
        ("tasks", "sums", "all", "tasks", "train-000", version_of("tasks"), 1, TASK["task"], TASK["task"]),
    ]
    assert rows(store, "from (select distinct file from nodes) anti join shards using (file)") == []


def test_written_database_finds_what_came_later(store):
    path = write_database(store)
    write(store, "nodes", [node(7, 1, "branch", leaf=True)], stage="retries")
    write(store, "nodes", [node(0, None, "prompt", tree="t@r1") | {"task": "t"}], stage="rollouts", round="r1")
    write(store, "verdicts", [verdict(7, 1.0), verdict(4, 1.0, version="2")], stage="retries")
    with duckdb.connect(path, read_only=True) as connection:
        found = connection.execute("select node, reward from task_leaves('t') order by node").fetchall()
        assert found == [(2, 1.0), (4, 1.0), (5, 1.0), (6, 0.0), (7, 1.0)]
        assert connection.execute("select node, reward from leaves where tree = 't' order by node").fetchall() == found
        assert connection.execute("select node from tree_nodes('t@r1')").fetchall() == [(0,)]
        assert connection.execute("select count(*) from shards where stage = 'retries'").fetchall() == [(0,)]


HOSTILE = [
    *(
        "it's",
        'dou"ble',
        "x'; drop view nodes; --",
        "a\tb",
        "a\nb",
        "\x01",
        "a@b",
        "%_*?[x]",
        "ünï\U0001f600",
        "\\",
        "$1?",
    ),
    *("l" * 199, "l" * 201, "l" * 201 + "\n", "{}", " ", "(select 1)", "chr(10)"),
]


@pytest.mark.parametrize("round", ["r0", "r1"])
def test_ids_and_texts_are_never_sql(tmp_path, round):
    store = Store(tmp_path / "it's; a 'store'")
    ordered = sorted(HOSTILE, key=str.encode)
    for number, tasks in enumerate(zip(*[iter(ordered)] * 3, strict=True)):
        nodes, verdicts = [], []
        for task in tasks:
            own = {"task": task, "text": task}
            nodes.append(node(0, None, "prompt", tree=f"{task}@{round}") | own)
            nodes.append(node(1, 0, "sample", tree=f"{task}@{round}", leaf=True) | own)
            verdicts.append(verdict(1, 1.0, tree=f"{task}@{round}") | {"task": task})
        for table, made in {"nodes": nodes, "verdicts": verdicts}.items():
            write(store, table, made, stage="rollouts", round=round, shard=f"train-{number:03}")
    with open_database(store) as connection:
        for task in HOSTILE:
            tree = f"{task}@{round}"
            assert [(shown.node, shown.text, shown.reward) for shown in tree_nodes(connection, tree)] == [
                (0, task, None),
                (1, task, 1.0),
            ]
            assert len(path_nodes(connection, tree, 1)) == 2
            assert list(run_query(connection, "from first_error(?)", [tree]).rows) == [
                (1, 1.0, None, 0, None, None, None)
            ]
            quoted = task.replace("'", "''")
            assert [len(list(answer.rows)) for answer in ask(connection, f"from task_nodes('{quoted}')")] == [2]


def test_a_macro_over_one_tree_takes_no_column(store):
    with pytest.raises(BadConfig, match="takes a literal, not a column; join the view"):
        rows(store, "select leaves.node from leaves, path(leaves.tree, leaves.node)")


@pytest.mark.parametrize("task", ["", "none", "t' or true --"])
def test_a_task_that_is_not_there(store, task):
    with open_database(store) as connection:
        for call in ("task_nodes(?)", "tree_nodes(?)", "task_leaves(?)", "first_error(?)", "task_credit(?)"):
            assert list(run_query(connection, f"from {call}", [task]).rows) == []


def test_a_macro_of_null(store):
    assert rows(store, "from tree_nodes(null); from path(null, null); from path('t', null)") == []


def test_leaves_of_a_task_are_those_of_the_view(store):
    write(store, "verdicts", [verdict(4, 1.0, version="10"), verdict(2, None, version="11")], stage="verdicts")
    for task in ("t", "u"):
        assert rows(store, f"from task_leaves('{task}')") == rows(
            store, f"from leaves where task = '{task}' order by tree, node"
        )


def test_paths_count_from_where_the_context_begins(store):
    retry = [
        node(7, 4, "prompt") | {"kind": "prompt", "context": 7, "token_count": 3, "token_ids": [1, 2, 3]},
        node(8, 7, "reflection", leaf=True) | {"kind": "reflection", "context": 7},
        node(9, 0, "prompt", leaf=True) | {"kind": "reflection", "context": 9, "token_count": 2, "token_ids": [1, 2]},
    ]
    write(store, "nodes", retry, stage="retries")
    assert rows(store, "select node, kind, steps, tokens from paths where tree = 't' order by node") == [
        (2, "step", 2, 3),
        (4, "step", 2, 3),
        (5, "step", 1, 2),
        (6, "step", 2, 3),
        (8, "reflection", 1, 4),
        (9, "reflection", 1, 2),
    ]
    older(Place("sums", "r0", "trees", "train-000").path(store.root, "nodes"), "nodes")
    assert rows(store, "select node, steps, tokens from paths where tree = 't' and node in (2, 6) order by node") == [
        (2, 2, 3),
        (6, 2, None),
    ]


def test_a_store_behind_a_url(tmp_path):
    store = forest(Store("memory://of-queries/it's", local=tmp_path))
    assert rows(store, "select count(*), min(suite), max(stage) from nodes") == [(11, "sums", "trees")]
    assert rows(store, "select node from subtree('t', 1)") == [(1,), (2,), (6,)]
    assert rows(store, "select node, reward from task_leaves('t') order by node") == [
        (2, 1.0),
        (4, 0.0),
        (5, 1.0),
        (6, 0.0),
    ]
    assert rows(store, "select count(*) from credit") == [(0,)]
    with open_database(store) as connection:
        assert [shown.node for shown in path_nodes(connection, "t", 6)] == [0, 1, 6]
    assert write_database(store) is None
    assert rows(Store("memory://of-queries/nothing", local=tmp_path), "from nodes; from tree_nodes('t')") == []
