"""The DuckDB database over a small store: opened, written, asked; refusals and interruptions."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import duckdb
import pytest
from shard_writers import AT, credit
from two_trees import forest, node, rows, write

from pipeline.errors import BadConfig, BadTable
from pipeline.store.layout import Place
from pipeline.store.query import ask, count_rows, open_database, path_nodes, run_query, tree_nodes, write_database
from pipeline.store.store import Store


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory):
    with open_database(forest(Store(tmp_path_factory.mktemp("sound") / "store"))) as connection:
        yield connection


@pytest.fixture
def store(tmp_path) -> Store:
    return forest(Store(tmp_path / "store"))


@pytest.mark.parametrize("name", ["it's a store", 'dou"ble', "[1]*{a,b}", "%20 ünï", "a;drop table x--"])
def test_awkward_store_paths(tmp_path, name):
    (tmp_path / "1xa").mkdir()
    forest(Store(tmp_path / "1xa"))
    store = forest(Store(tmp_path / name))
    assert rows(store, "select count(*) from nodes; select count(*) from tree_nodes('t')") == [(11,), (7,)]
    with duckdb.connect(write_database(store), read_only=True) as connection:
        asked = "select (select count(*) from nodes), (select count(*) from tree_nodes('t'))"
        assert connection.execute(asked).fetchall() == [(11, 7)]


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
    assert [file.name for file in store.root.iterdir() if "branchpoint" in file.name] == ["branchpoint.duckdb"]
    assert write_database(store) == path


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
def test_refusals_take_one_line(connection, sql, message):
    with pytest.raises(BadConfig) as refused:
        [list(answer.rows) for answer in ask(connection, sql)]
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_interrupt(store):
    with open_database(store) as connection:
        timer = threading.Timer(0.5, connection.interrupt)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            run_query(connection, "select sum(a.range * b.range) from range(1000000) a, range(1000000) b")
        timer.join()


def test_a_shard_replaced_under_an_open_database_is_read_anew(tmp_path):
    store = Store(tmp_path)
    store.write("credit", credit(0.0, 10), AT, inputs={})
    with open_database(store) as connection:
        for number in range(1, 30):
            store.write("credit", credit(float(number), 10 + number % 3), AT, inputs={})
            found = run_query(connection, "select advantage, count(*) from credit group by all")
            assert list(found.rows) == [(number, 10 + number % 3)]


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


@pytest.mark.parametrize(
    "sql",
    [
        "create table mine (a int)",
        "insert into shards select * from shards",
        "update shards set rows = 0",
        "delete from shards",
        "drop view nodes",
        "alter table shards drop rows",
        "copy (select 1) to 'out.csv'",
        "  -- a remark\n copy nodes to 'out.parquet'",
        "with found as (copy (select 1) to 'out.csv') from found",
        "with found as not materialized (/* so */copy (select 1) to 'out.csv') select 1",
        "explain analyze copy (select 1) to 'out.csv'",
        "/* so */ explain -- and\n (analyze, format json) copy (select 1) to 'out.csv'",
        "explain analyze with found as (copy (select 1) to 'out.csv') select 1",
        "with gone as (delete from shards returning *) from gone",
        "explain analyze delete from shards",
        "attach 'other.duckdb'",
        "install httpfs",
        "load json",
        "set threads = 1",
        "pragma enable_profiling",
        "call enable_logging(storage = 'file', storage_path = 'logs')",
        "from enable_logging(storage = 'file', storage_path = 'logs')",
        "export database 'out'",
        "import database 'out'",
        "use memory",
        "checkpoint",
        "vacuum",
        "begin",
        "prepare found as select 1",
        "select 1; drop view nodes; select 2",
    ],
)
def test_what_would_write_is_refused(connection, sql, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadConfig, match=r"does not only read|read-only|locked") as refused:
        list(ask(connection, sql))
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []
    assert [list(answer.rows) for answer in ask(connection, "select count(*), sum(rows) from shards")] == [[(6, 20)]]


@pytest.mark.parametrize(
    "sql",
    [
        "from nodes",
        "describe nodes",
        "summarize shards",
        "show tables",
        "explain select 1",
        "explain (analyze) from nodes",
        "pivot leaves on reward using count(*)",
        "values (1), (2)",
        "table shards",
        "with recursive n(i) as (select 1 union all select i + 1 from n where i < 3) from n",
        "select 'copy' as copy, count(*) from nodes",
        "select text from nodes where text not like '%copy%'",
    ],
)
def test_what_reads_is_answered(connection, sql):
    for answer in ask(connection, sql):
        assert answer.columns
        assert list(answer.rows)


def test_statements_are_answered_in_turn(connection):
    sql = "select 1 a; select ';' b; select 3 c;"
    answers = [(answer.columns, list(answer.rows)) for answer in ask(connection, sql)]
    assert answers == [(("a",), [(1,)]), (("b",), [(";",)]), (("c",), [(3,)])]


def test_an_answer_left_half_read_is_no_matter(connection):
    for _ in range(3):
        answers = ask(connection, "from range(100000); from nods")
        assert next(next(answers).rows) == (0,)
        with pytest.raises(BadConfig, match="nods"):
            next(answers)


@pytest.mark.parametrize("sql", ["", "  \n", "-- nothing", ";", "/* nor here */;;"])
def test_an_empty_query_is_refused(connection, sql):
    with pytest.raises(BadConfig, match="the query is empty; ask something"):
        list(ask(connection, sql))


def write_for_ever(store: Store) -> None:
    while True:
        write_database(store)


@pytest.fixture
def heeding_interrupts():
    """Interrupts are heard, also by what a shell began in the background, where they are ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeding_interrupts")
def test_interrupt_while_writing(store):
    path = write_database(store)
    for wait in (0.01, 0.1, 0.2):
        timer = threading.Timer(wait, lambda: signal.raise_signal(signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            write_for_ever(store)
        timer.join()
        assert [file.name for file in store.root.iterdir() if file.name.startswith(".branchpoint")] == []
        with duckdb.connect(path, read_only=True) as connection:
            assert connection.execute("select count(*) from nodes").fetchall() == [(11,)]
