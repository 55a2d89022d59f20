"""The store as a DuckDB database: opens it, writes it, asks it. Copies no data, needs no extension.

A view reads whatever shards there are when it is asked, so a database made before a stage sees its rows after it. Adds
to a table's own columns where a row lies: `suite`, `round`, `stage`, `shard`, `file`. A table that has a column of such
a name itself keeps its own. The table `shards` says what files there were when the database was made.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import duckdb

from pipeline.errors import BadConfig, StoreFull
from pipeline.store.files import Files, LocalFiles, RemoteFiles
from pipeline.store.seal import is_whole
from pipeline.store.store import Store
from pipeline.store.views import plain_pattern, shards_of, statements
from pipeline.store.write import write_parquet
from schemas import TABLES
from schemas.base import arrow_schema
from schemas.versions import version_of

DATABASE = "branchpoint.duckdb"
EMPTY = ".empty"
"""Folder of the store with a file without rows a table, from which views learn columns."""
_OFFLINE = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
_QUIET = "set enable_progress_bar = false"
"""DuckDB's own bar goes to stdout, among the rows, and keeps it from seeing Ctrl-C."""
_FOOTERS_KEPT = "set parquet_metadata_cache = true"
"""A third of the time of asking about one task is reading footers; one of a file that has changed is read anew."""
_AT_ONCE = 1000
_PATIENCE = 0.1
T = TypeVar("T")
_READS = ("SELECT", "EXPLAIN", "MULTI")
"""Kinds of statements that only read; MULTI is a pivot that must first look for its columns."""
_BLANK = r"(?:\s|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*"
_EXPLAIN = re.compile(rf"{_BLANK}explain\b{_BLANK}(?:analyze\b|\([^)]*\))?", re.IGNORECASE | re.DOTALL)
_WRITES = "COPY_TO_FILE"
"""The step of a plan that writes a file; a statement that begins `with` can hold one and is a SELECT all the same."""

_SHOWN = "select nodes.node, nodes.parent, nodes.origin, nodes.text, judged.reward"
_JUDGED = """
    left join task_judged(task_of($tree)) as judged on judged.tree = nodes.tree and judged.node = nodes.node
    order by nodes.node
"""


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


def open_database(store: Store) -> duckdb.DuckDBPyConnection:
    """A database in memory with the store's views and macros.

    Raises:
        BadTable: a file of the store is damaged.
    """
    connection = duckdb.connect(config=_OFFLINE)
    try:
        _fill(connection, store)
        connection.execute(_FOOTERS_KEPT)
        connection.execute("set lock_configuration = true")
    except BaseException:
        connection.close()
        raise
    return connection


def write_database(store: Store) -> Path | None:
    """Write `branchpoint.duckdb` into the store, for any DuckDB client.

    Its views name the store by its absolute path, so that it can be opened from any folder; a store that
    has moved needs it written anew. What comes after it is in its views all the same, and in the macros over one
    task wherever the task's slice was known: that of a suite is, once its tasks are written. Only the table `shards`
    stays as it was.

    Returns:
        The file. None: the store lies behind a URL, which no DuckDB client could open from it.

    Raises:
        BadTable: a file of the store is damaged.
        StoreFull: the store cannot be written.
        KeyboardInterrupt: it was interrupted; the file is as it was.
    """
    if not isinstance(store.files, LocalFiles):
        return None
    path = store.files.root / DATABASE
    part = path.with_name(f".{DATABASE}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        with duckdb.connect(str(part), config=_OFFLINE) as connection:
            _fill(connection, store)
        part.replace(path)
    except OSError as error:
        raise StoreFull(f"cannot write {path}: {error.strerror}", remedy="choose another store") from error
    except duckdb.IOException as error:
        raise StoreFull(_one_line(error), remedy="free some space or choose another store") from error
    finally:
        for left in (part, part.with_name(f"{part.name}.wal")):
            left.unlink(missing_ok=True)
    return path


def database_fault(store: Store) -> str | None:
    """Why a client should not open the store's `branchpoint.duckdb`; None where it can, and where there is none."""
    files = store.files
    path = files.local / DATABASE
    if not isinstance(files, LocalFiles) or not path.exists():
        return None
    remedy = "remove it; the next stage that writes makes it anew"
    try:
        with duckdb.connect(str(path), read_only=True, config=_OFFLINE) as connection:
            connection.execute("select sql from duckdb_views() where not internal").fetchall()
            listed = [file for (file,) in connection.execute("select file from shards").fetchall()]
    except (duckdb.Error, UnicodeDecodeError) as error:
        return f"{path} is damaged: {_one_line(error)[:200]}; {remedy}"
    root = files.address("")
    other = next((file for file in listed if not file.startswith(root)), None)
    return None if other is None else f"{path} reads {other}, which is not of this store; {remedy}"


def _fill(connection: duckdb.DuckDBPyConnection, store: Store) -> None:
    files, entries = store.files, store.catalogue()
    if isinstance(files, RemoteFiles):
        connection.register_filesystem(files.fs)
    with _interrupts():
        connection.execute(_QUIET)
        connection.begin()
        connection.register("found", shards_of(files, entries))
        connection.execute("create or replace table shards as from found")
        connection.unregister("found")
        for statement in statements(files, entries, _empty_files(files)):
            connection.execute(statement)
        connection.commit()


def _empty_files(files: Files) -> dict[str, str]:
    """By table, the address of a file without rows, made where it is missing or damaged; none where it cannot be.

    As a pattern, so that a client does without the file where somebody took it away.
    """
    found = {}
    if not isinstance(files, LocalFiles):
        return found
    for name, table in TABLES.items():
        path = files.root.absolute() / EMPTY / f"{name}-{version_of(name)}.parquet"
        with suppress(OSError):
            if not _is_sound(path):
                write_parquet(path, name, arrow_schema(table).empty_table(), inputs={})
            found[name] = plain_pattern(path).removesuffix(".parquet") + "[.]parquet"
    return found


def _is_sound(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open("rb") as file:
        return bool(is_whole(file))


def run_query(
    connection: duckdb.DuckDBPyConnection, sql: str | duckdb.Statement, parameters: Sequence[Any] | dict[str, Any] = ()
) -> Answer:
    """Run one statement of our own, with values in place of its `?` or `$name`.

    Raises:
        BadConfig: DuckDB refuses the query, now or while its rows are read; its reason in one line.
        KeyboardInterrupt: it was interrupted.
    """

    def begin() -> list[tuple[Any, ...]]:
        connection.execute(sql, parameters or None)
        return connection.fetchmany(_AT_ONCE)

    with _refusals():
        first = _at_work(connection, begin)
        columns = tuple(column[0] for column in connection.description)
    return Answer(columns, _rows(connection, first))


def ask(connection: duckdb.DuckDBPyConnection, sql: str) -> Iterator[Answer]:
    """Run statements of a user that read, one after the other; each when the rows of the one before it were read.

    Raises:
        BadConfig: as `reading`, and nothing was run; or as `run_query`.
        KeyboardInterrupt: as `run_query`.
    """
    for statement in reading(connection, sql):
        with _refusals():
            connection.execute("begin transaction read only")
        try:
            yield run_query(connection, statement)
        finally:
            with suppress(duckdb.Error):
                connection.rollback()


def reading(connection: duckdb.DuckDBPyConnection, sql: str) -> list[duckdb.Statement]:
    """The statements of a query, which only read.

    Raises:
        BadConfig: there is none, one would write, or it is no SQL.
    """
    try:
        with _refusals():
            found = connection.extract_statements(sql)
    except TypeError as error:
        raise BadConfig("the query is no UTF-8", remedy="write it as text") from error
    if not found:
        raise BadConfig("the query is empty", remedy='ask something, such as "from pass_at(1)"')
    for statement in found:
        _check_reads(connection, statement)
    return found


def _check_reads(connection: duckdb.DuckDBPyConnection, statement: duckdb.Statement) -> None:
    """Refuse a statement that would write anything, but for what a transaction that only reads refuses itself."""
    kind, text = statement.type.name, statement.query.strip().rstrip(";")
    if kind == "EXPLAIN":
        text = text[_EXPLAIN.match(text).end() :]
        with _refusals():
            (inner,) = connection.extract_statements(text)
        kind = inner.type.name
    if kind in _READS and re.search(r"\bcopy\b", text, re.IGNORECASE):
        with _refusals():
            plan = connection.execute(f"explain (format json) {text}").fetchall()
        kind = "COPY" if any(_WRITES in row[-1] for row in plan) else kind
    if kind not in _READS:
        raise BadConfig(
            f"{' '.join(text.split())[:60]!r} does not only read",
            remedy="ask with select, from, describe, summarize or explain; --csv and --json give rows to a file",
        )


def count_rows(store: Store) -> list[Count]:
    """Rows of the whole store by table and stage, from the catalogue.

    Raises:
        BadTable: a file of the store is damaged.
    """
    found = defaultdict(list)
    for entry in store.catalogue():
        found[entry.table, entry.place.suite, entry.place.round, entry.place.stage].append(entry.rows)
    order = list(TABLES)
    return [
        Count(*of, rows=sum(rows), shards=len(rows))
        for of, rows in sorted(found.items(), key=lambda item: (order.index(item[0][0]), *item[0][1:]))
    ]


def tree_nodes(connection: duckdb.DuckDBPyConnection, tree: str) -> list[ShownNode]:
    """The nodes of a tree, parents first.

    Raises:
        BadConfig: there is no such tree; names the one most like it.
    """
    sql = f"{_SHOWN} from tree_nodes($tree) as nodes {_JUDGED}"
    found = [ShownNode(*row) for row in run_query(connection, sql, {"tree": tree}).rows]
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
    sql = f"{_SHOWN} from path($tree, $node) as nodes {_JUDGED}"
    found = [ShownNode(*row) for row in run_query(connection, sql, {"tree": tree, "node": node}).rows]
    if not found:
        last = tree_nodes(connection, tree)[-1].node
        raise BadConfig(f"tree {tree!r} has no node {node}", remedy=f"its nodes are 0 to {last}")
    return found


def _rows(connection: duckdb.DuckDBPyConnection, some: list[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """These rows and those that follow; fewer than were asked for are the last."""
    yield from some
    while len(some) == _AT_ONCE:
        with _refusals():
            some = _at_work(connection, lambda: connection.fetchmany(_AT_ONCE))
        yield from some


def _at_work(connection: duckdb.DuckDBPyConnection, work: Callable[[], T]) -> T:
    """Have DuckDB work in another thread, so that Ctrl-C reaches this one at once.

    DuckDB itself looks for signals between its tasks alone, and a task may take hours.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        working = pool.submit(work)
        try:
            return working.result()
        except KeyboardInterrupt:
            while not working.done():  # it may not have begun, and what has not begun is not interrupted
                connection.interrupt()
                wait([working], timeout=_PATIENCE)
            raise


@contextmanager
def _interrupts() -> Iterator[None]:
    """Ctrl-C, in whichever form DuckDB hands it on."""
    try:
        yield
    except duckdb.InterruptException as error:
        raise KeyboardInterrupt from error
    except RuntimeError as error:
        if "interrupted" not in str(error):
            raise
        raise KeyboardInterrupt from error


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        with _interrupts():
            yield
    except duckdb.Error as error:
        raise BadConfig(_one_line(error), remedy=_remedy(error)) from error


def _remedy(error: duckdb.Error) -> str:
    if "lateral join column parameters" in str(error):
        return "a macro over one task or tree takes a literal, not a column; join the view `paths` or `nodes` instead"
    if isinstance(error, duckdb.IOException | duckdb.InvalidInputException) and ".parquet" in str(error):
        return "`branchpoint check` names what is damaged"
    return "correct the query; `branchpoint tables` lists what there is"


def _one_line(error: Exception) -> str:
    """DuckDB's reason without the excerpt of the query it points into."""
    return " ".join(str(error).split("\n\nLINE ")[0].split())
