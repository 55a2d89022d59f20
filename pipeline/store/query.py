"""The store as a DuckDB database: a view a table, macros over trees. Copies no data, needs no extension.

A view reads whatever shards there are when it is asked, so a database made before a stage sees its rows
after it. Adds to a table's own columns where a row lies: `suite`, `round`, `stage`, `shard`. A table that
has a column of such a name itself keeps its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from pipeline.errors import BadConfig, BadTable, StoreFull
from pipeline.store.store import Store
from schemas import TABLES
from schemas.base import Table, arrow_schema, column_docs, describe

DATABASE = "branchpoint.duckdb"
_OFFLINE = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
_QUIET = "set enable_progress_bar = false"
"""DuckDB's own bar goes to stdout, among the rows, and keeps it from seeing Ctrl-C."""
_AT_ONCE = 1000
_TYPES = {
    pa.string(): "varchar",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.float32(): "float",
    pa.float64(): "double",
    pa.bool_(): "boolean",
    pa.timestamp("us", tz="UTC"): "timestamptz",
}
_PLACE = {
    "suite": r"regexp_extract(filename, '/suite=([^/]*)/[^/]*/[^/]*/[^/]*$', 1)",
    "round": r"regexp_extract(filename, '/round=([^/]*)/[^/]*/[^/]*$', 1)",
    "stage": r"regexp_extract(filename, '/stage=([^/]*)/[^/]*$', 1)",
    "shard": "parse_filename(filename, true)",
}
"""Read off the file's name rather than by hive_partitioning, which would hide a table's own column of that name.
DuckDB prunes files by a filter on them all the same."""

_SHOWN = "select nodes.node, nodes.parent, nodes.origin, nodes.text, leaves.reward"
_JUDGED = "left join leaves on leaves.tree = nodes.tree and leaves.node = nodes.node order by nodes.node"


class Answer(NamedTuple):
    """What a query gave. Columns are empty where the statement has no result; rows are read as they are asked for."""

    columns: tuple[str, ...]
    rows: Iterator[tuple[Any, ...]]


class Count(NamedTuple):
    """Rows and shards of a table by stage."""

    table: str
    suite: str
    round: str
    stage: str
    rows: int
    shards: int


class ShownNode(NamedTuple):
    """A node as people look at it. reward: null where no verdict stands."""

    node: int
    parent: int | None
    origin: str
    text: str
    reward: float | None


def open_database(store: Store, path: Path | None = None) -> duckdb.DuckDBPyConnection:
    """A database with the store's views and macros.

    Args:
        path: file to keep it in; in memory where there is none.

    Raises:
        BadTable: a shard cannot be read.
        StoreFull: the file cannot be written.
    """
    try:
        connection = duckdb.connect(":memory:" if path is None else str(path), config=_OFFLINE)
    except duckdb.IOException as error:
        raise StoreFull(_one_line(error), remedy="free some space or choose another store") from error
    try:
        connection.execute(_QUIET)
        connection.begin()
        for name, table in TABLES.items():
            connection.execute(_view(store.root, name, table))
            for statement in _comments(name, table):
                connection.execute(statement)
        connection.execute(resources.files(__package__).joinpath("views.sql").read_text())
        connection.commit()
    except duckdb.Error as error:
        connection.close()
        raise BadTable(
            f"{store.root}: {_one_line(error)}", remedy="move what is not a shard out of the store"
        ) from error
    return connection


def write_database(store: Store) -> Path:
    """Write `branchpoint.duckdb` into the store, for any DuckDB client.

    Its views name the store by its absolute path, so that it can be opened from any folder; a store that
    has moved needs it written anew.

    Raises:
        BadTable: a shard cannot be read.
        StoreFull: the store cannot be written.
    """
    path = store.root / DATABASE
    part = path.with_name(f".{DATABASE}.{os.getpid()}.part")
    try:
        store.root.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        open_database(store, part).close()
        part.replace(path)
    except OSError as error:
        raise StoreFull(f"cannot write {path}: {error.strerror}", remedy="choose another store") from error
    finally:
        part.unlink(missing_ok=True)
    return path


def run_query(connection: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[Any] = ()) -> Answer:
    """Run one or more statements; the answer is the last one's.

    Raises:
        BadConfig: DuckDB refuses the query, now or while its rows are read; its reason in one line.
        KeyboardInterrupt: it was interrupted.
    """
    with _refusals():
        done = connection.execute(sql, parameters or None)
        columns = tuple(column[0] for column in (done.description or ())) if done else ()
    return Answer(columns, _rows(connection) if columns else iter(()))


def count_rows(store: Store) -> list[Count]:
    """Rows of the whole store by table and stage, from the files' footers.

    Raises:
        BadTable: a file is no Parquet.
    """
    counts = []
    for table in TABLES:
        for of, places in groupby(store.places(table), key=lambda place: (place.suite, place.round, place.stage)):
            rows = []
            for place in places:
                try:
                    rows.append(store.rows(table, place))
                except pa.ArrowInvalid as error:
                    raise BadTable(
                        f"{place.path(store.root, table)} is no Parquet file: {error}", remedy="remove it and run again"
                    ) from error
            counts.append(Count(table, *of, rows=sum(rows), shards=len(rows)))
    return counts


def tree_nodes(connection: duckdb.DuckDBPyConnection, tree: str) -> list[ShownNode]:
    """The nodes of a tree, parents first.

    Raises:
        BadConfig: there is no such tree; names the one most like it.
    """
    found = [
        ShownNode(*row) for row in run_query(connection, f"{_SHOWN} from subtree(?, 0) as nodes {_JUDGED}", [tree]).rows
    ]
    if not found:
        like = "select tree from nodes group by tree order by jaro_winkler_similarity(tree, ?) desc, tree limit 1"
        nearest = next((row[0] for row in run_query(connection, like, [tree]).rows), None)
        remedy = f"did you mean {nearest!r}?" if nearest else "the store has no trees; run `branchpoint rollouts` first"
        raise BadConfig(f"there is no tree {tree!r}", remedy=remedy)
    return found


def path_nodes(connection: duckdb.DuckDBPyConnection, tree: str, node: int) -> list[ShownNode]:
    """The nodes from the root of a tree to a node.

    Raises:
        BadConfig: there is no such tree or node.
    """
    sql = f"{_SHOWN} from path(?, ?) as nodes {_JUDGED}"
    found = [ShownNode(*row) for row in run_query(connection, sql, [tree, node]).rows]
    if not found:
        last = tree_nodes(connection, tree)[-1].node
        raise BadConfig(f"tree {tree!r} has no node {node}", remedy=f"its nodes are 0 to {last}")
    return found


def _rows(connection: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
    while True:
        with _refusals():
            some = connection.fetchmany(_AT_ONCE)
        if not some:
            return
        yield from some


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except duckdb.InterruptException as error:
        raise KeyboardInterrupt from error
    except RuntimeError as error:
        if "interrupted" not in str(error):
            raise
        raise KeyboardInterrupt from error
    except duckdb.Error as error:
        raise BadConfig(
            _one_line(error), remedy="correct the query; `branchpoint tables` lists what there is"
        ) from error


def _one_line(error: duckdb.Error) -> str:
    """DuckDB's reason without the excerpt of the query it points into."""
    return " ".join(str(error).split("\n\nLINE ")[0].split())


def _text(value: str) -> str:
    """A string literal."""
    return "'" + value.replace("'", "''") + "'"


def _name(value: str) -> str:
    """An identifier."""
    return '"' + value.replace('"', '""') + '"'


def _glob(root: Path, table: str) -> str:
    """A pattern of the shards of a table; what a glob would read into the store's own path is made plain."""
    plain = "".join(f"[{letter}]" if letter in "*?[" else letter for letter in str(root.absolute()))
    return f"{plain}/{table}/*/*/*/*.parquet"


def _type(of: pa.DataType) -> str:
    return f"{_type(of.value_type)}[]" if pa.types.is_list(of) else _TYPES[of]


def _view(root: Path, name: str, table: type[Table]) -> str:
    """The view of a table: typed and empty where there are no files."""
    fields = list(arrow_schema(table))
    own = [_name(field.name) for field in fields]
    place = [f"{source} as {column}" for column, source in _PLACE.items() if _name(column) not in own]
    typed = [f"null::{_type(field.type)} as {_name(field.name)}" for field in fields]
    return f"""
        create or replace view {_name(name)} as select {", ".join([*own, *place])} from (
            select {", ".join([*typed, "null::varchar as filename"])} where false
            union all by name
            select * from read_parquet(
                {_text(_glob(root, name))}, hive_partitioning = false, filename = true, allow_empty = true
            )
        )
    """


def _comments(name: str, table: type[Table]) -> Iterator[str]:
    """What a row and its columns are, for `duckdb_columns()` and the clients that show it."""
    yield f"comment on view {_name(name)} is {_text(describe(table))}"
    for column in column_docs(table):
        yield f"comment on column {_name(name)}.{_name(column.name)} is {_text(column.description)}"
