"""The SQL that makes the database: a view a table, and by task what can be known from where tasks lie. Runs nothing.

A view reads whatever lies in the store when it is asked. Opening a Parquet file costs a fraction of a millisecond even
where nothing in it is wanted, so what asks about one task names the few files that may hold it: see `files_of`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path

import polars as pl
import pyarrow as pa

from pipeline.store.catalogue import Entry
from pipeline.store.files import Files, LocalFiles
from schemas import TABLES
from schemas.base import Table, arrow_schema, column_docs, describe
from schemas.versions import version_of

SCRIPTS = ("views.sql", "figures.sql")
SHARDS = {
    **dict.fromkeys(("table_name", "file", "suite", "round", "stage", "shard"), pl.String),
    "version": pl.Int32,
    "rows": pl.Int64,
    **dict.fromkeys(("first_task", "last_task"), pl.String),
}
"""The table of the files there were when the database was made."""
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
    "suite": "substr(string_split(filename, '/')[-4], 7)",
    "round": "substr(string_split(filename, '/')[-3], 7)",
    "stage": "substr(string_split(filename, '/')[-2], 7)",
    "shard": "parse_filename(filename, true)",
    "file": "filename",
}
"""Read off the end of the file's name, what follows `suite=`, `round=` and `stage=`, rather than by hive_partitioning,
which would hide a table's own column of that name. DuckDB prunes files by a filter on them all the same; of several
spellings this one takes it the least time, and for some it opens every file."""
_SAID = re.compile(r"^create or replace (\w+) (\w+)(?:\(.*\))? as( table)?\n((?:-- .*\n)+)", re.MULTILINE)
"""What a script makes, and what it says of it."""
_LONGEST = 200
_LAST_LETTER = "\U0010ffff"


def text(value: str) -> str:
    """A string literal."""
    return "'" + value.replace("'", "''") + "'"


def quoted(value: str) -> str:
    """An identifier."""
    return '"' + value.replace('"', '""') + '"'


def shards_of(files: Files, entries: Iterable[Entry]) -> pa.Table:
    """Rows of the table of files."""
    root = _root(files)
    rows = [
        (
            entry.table,
            root + entry.name,
            *(entry.place.suite, entry.place.round, entry.place.stage, entry.place.shard),
            *(entry.version, entry.rows, entry.first_task, entry.last_task),
        )
        for entry in entries
    ]
    return pl.DataFrame(rows, schema=SHARDS, orient="row").to_arrow()


def statements(files: Files, entries: Iterable[Entry], empty: Mapping[str, str]) -> Iterator[str]:
    """What makes the views and macros, in order; each may hold several statements.

    Args:
        files, entries: what there is.
        empty: by table, the address of a file without rows that says its columns; see `_rows_of_task`.

    DuckDB reads through a view whatever is made upon it, so views get their files last: listing them takes its time.
    """
    entries = list(entries)
    yield _files_of(files, entries)
    yield _growing_stages(entries)
    for name, table in TABLES.items():
        yield f"create or replace view {quoted(name)} as {_rows(table, None)}"
        if "task" in table.column_names():
            older = any(entry.version < version_of(name) for entry in entries if entry.table == name)
            rows, of_task = _rows_of_task(name, None if older else empty.get(name)), quoted(f"task_{name}")
            yield f"create or replace macro {of_task}(of_task) as table {rows} where task = of_task"
            yield f"comment on macro table {of_task} is {text(f'`{name}`, of one task.')}"
    for script in SCRIPTS:
        sql = resources.files(__package__).joinpath(script).read_text()
        yield sql
        for kind, name, of_table, said in _SAID.findall(sql):
            said = " ".join(said.replace("-- ", "").split())
            yield f"comment on {kind}{of_table and ' table'} {name} is {text(said)}"
    for name, table in TABLES.items():
        yield f"create or replace view {quoted(name)} as {_rows(table, _every_file(files, name, entries))}"
        yield f"comment on view {quoted(name)} is {text(describe(table))}"
        for column in column_docs(table):
            yield f"comment on column {quoted(name)}.{quoted(column.name)} is {text(column.description)}"


def _rows(table: type[Table], source: str | None) -> str:
    """Selects a table's rows from files, and where each lies; typed and empty where there are none.

    A column that files of an older version lack is null: the schema is given, so no footer is read to learn it.
    """
    fields = list(arrow_schema(table))
    rows = f"select {', '.join(f'null::{_type(field.type)} as {quoted(field.name)}' for field in fields)}"
    rows += ", null::varchar as filename where false"
    if source is not None:
        known = ", ".join(
            f"{text(field.name)}: {{name: {text(field.name)}, type: {text(_type(field.type))}, default_value: null}}"
            for field in fields
        )
        rows += f"""
            union all by name
            select * from read_parquet(
                {source}, schema = map {{{known}}}, hive_partitioning = false, filename = true, allow_empty = true
            )
        """
    return f"select {_columns(table)} from ({rows})"


def _columns(table: type[Table]) -> str:
    """A table's columns, and where a row lies."""
    own = table.column_names()
    place = [f"{source} as {column}" for column, source in _PLACE.items() if column not in own]
    return ", ".join([*map(quoted, own), *place])


def _rows_of_task(name: str, empty: str | None) -> str:
    """As `_rows`, of the files that may hold rows of a task.

    To say a table's columns by a file without rows, before all others, takes an eighth of a query's time less than to
    spell them out; it cannot fill in what older files lack.
    """
    table, source = TABLES[name], f"files_of({text(name)}, of_task)"
    if empty is None:
        return _rows(table, source)
    return f"""
        select {_columns(table)} from read_parquet(
            list_concat([{text(empty)}], {source}), hive_partitioning = false, filename = true, allow_empty = true
        )
    """


def _every_file(files: Files, table: str, entries: list[Entry]) -> str:
    """The files of a table: a pattern, which finds also those that come later; behind a URL, those there are.

    Listing is what is slow there, and every query would list.
    """
    if isinstance(files, LocalFiles):
        return text(f"{_pattern(files)}/{table}/*/*/*/*.parquet")
    root = _root(files)
    return f"[{', '.join(text(root + entry.name) for entry in entries if entry.table == table)}]::varchar[]"


def _files_of(files: Files, entries: list[Entry]) -> str:
    """A macro: the files of a table that may hold rows of a task. DuckDB evaluates it before it opens anything.

    A line a slice of tasks, in one literal: thousands of literals would take longer to parse than the files to read.
    In a folder a slice is looked for in every round and stage, so that those which come later are found too.
    """
    slices: dict[tuple[str, str], tuple[str, str]] = {}
    for entry in entries:
        if entry.first_task is None or entry.last_task is None:
            continue
        if isinstance(files, LocalFiles):
            where = ("", f"suite={entry.place.suite}/*/*/{entry.place.shard}.parquet")
        else:
            where = (entry.table, entry.name.removeprefix(f"{entry.table}/"))
        first, last = slices.get(where, (entry.first_task, entry.last_task))
        slices[where] = (min(first, entry.first_task), max(last, entry.last_task))
    lines = "\n".join(
        "\t".join((*where, _plain(first), _plain(last, above=True))) for where, (first, last) in slices.items()
    )
    root = f"{_pattern(files)}/" if isinstance(files, LocalFiles) else _root(files)
    return f"""
        create or replace macro files_of(of_table, of_task) as list_transform(
            list_filter(
                string_split({text(lines)}, chr(10)),
                lambda line: line <> ''
                    and split_part(line, chr(9), 1) in ('', of_table)
                    and of_task between split_part(line, chr(9), 3) and split_part(line, chr(9), 4)
            ),
            lambda line: {text(root)} || of_table || '/' || split_part(line, chr(9), 2)
        )
    """


def _plain(task: str, *, above: bool = False) -> str:
    """A bound that fits into a line: cut before what would end it, then below the task, or above it."""
    for at, letter in enumerate(task[: _LONGEST + 1]):
        if letter < " " or at == _LONGEST:
            return task[:at] + (_LAST_LETTER if above else "")
    return task


def _growing_stages(entries: list[Entry]) -> str:
    """A macro: the stages that hold nodes, and with them the verdicts on those."""
    stages = sorted({entry.place.stage for entry in entries if entry.table == "nodes"})
    return f"create or replace macro growing_stages() as [{', '.join(map(text, stages))}]::varchar[]"


def _root(files: Files) -> str:
    """What stands before a name in an address."""
    return files.address("*").removesuffix("*")


def plain_pattern(path: Path) -> str:
    """A path for a pattern: what a glob would read into it is made plain."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in str(path))


def _pattern(files: LocalFiles) -> str:
    return plain_pattern(files.root.absolute())


def _type(of: pa.DataType) -> str:
    return f"{_type(of.value_type)}[]" if pa.types.is_list(of) else _TYPES[of]
