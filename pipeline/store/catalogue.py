"""What the store's files say of themselves, each read and verified once, then known by its size and time of change.

A file that has not been seen as it now is, is read whole: its seal must hold, its table, version and footer must be
ours. So no reader meets damage that came with a write, and opening a large store costs a look at every file, no more.
Kept in SQLite beside the ledger; a cache, rebuilt from the files where it is lost or damaged.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import BadTable
from pipeline.store.files import Files, Stamp, unreadable
from pipeline.store.layout import Place, place_of
from pipeline.store.seal import is_whole
from pipeline.store.write import META, Written
from schemas import TABLES
from schemas.base import arrow_schema
from schemas.versions import added_since, version_of

FILE = "catalogue.sqlite"
_CREATE = "create table if not exists files (name text primary key, entry text not null, mark blob not null)"
_PUT = "insert or replace into files values (?, ?, ?)"
_DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError)
"""SQLite quotes what it does not understand, and Python cannot always read the quote."""


class Entry(NamedTuple):
    """A verified file of the store.

    name, size, state: as in `Stamp`.
    version: of its table's schema.
    digest:  of its rows.
    inputs:  what they were made from.
    first_task, last_task: null where the table has no tasks, or the file no rows.
    sealed:  False: of a version that kept no digest of its bytes.
    """

    name: str
    size: int
    state: str
    table: str
    place: Place
    version: int
    rows: int
    digest: str
    inputs: dict[str, str]
    first_task: str | None
    last_task: str | None
    sealed: bool


class Catalogue:
    """Of the store whose files these are."""

    def __init__(self, files: Files):
        self._files, self._lock = files, Lock()
        self._known: dict[str, Entry] | None = None

    def entry(self, name: str) -> Entry | None:
        """A file as it now is. None: there is none.

        Raises:
            BadTable: it is damaged, not ours, or of a newer version.
        """
        stamp = self._files.stat(name)
        return None if stamp is None else self._entries([stamp])[0]

    def entries(self, below: str) -> list[Entry]:
        """Every file below a folder, by name.

        Raises:
            BadTable: one is damaged, not ours, or of a newer version.
        """
        return self._entries(sorted(self._files.list(below)))

    def note(self, name: str, table: str, inputs: dict[str, str], written: Written) -> None:
        """Remember a file that was just written and moved into place: its bytes need no second look."""
        stamp = self._files.stat(name)
        if stamp is not None:
            meta = {"schema_version": version_of(table), "inputs": inputs, "sealed": True}
            self._keep([_entry(stamp, meta, written)])

    def verify(self, stamp: Stamp) -> Entry:
        """Read a file whole, whatever is known of it.

        Raises:
            BadTable: it is damaged, not ours, or of a newer version.
        """
        entry = _verified(self._files, stamp)
        self._keep([entry])
        return entry

    def _entries(self, stamps: list[Stamp]) -> list[Entry]:
        known, fresh, found = self._load(), [], []
        for stamp in stamps:
            entry = known.get(stamp.name)
            if entry is None or entry[:3] != stamp:
                entry = _verified(self._files, stamp)
                fresh.append(entry)
            found.append(entry)
        self._keep(fresh)
        return found

    def _load(self) -> dict[str, Entry]:
        with self._lock:
            if self._known is None:
                rows = []
                with self._database() as db:
                    rows = db.execute("select name, entry, mark from files").fetchall() if db else []
                self._known = {name: _from_json(text) for name, text, mark in rows if mark == _mark(name, text)}
            return self._known

    def _keep(self, entries: Iterable[Entry]) -> None:
        entries = list(entries)
        if not entries:
            return
        self._load().update({entry.name: entry for entry in entries})
        texts = [(entry.name, json.dumps(entry._replace(place=None))) for entry in entries]
        for _ in range(2):  # one whose damage shows only now is forgotten, and another takes its place
            with self._lock, self._database() as db:
                if db:
                    with db:
                        db.executemany(_PUT, [(name, text, _mark(name, text)) for name, text in texts])
                return

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection | None]:
        """The cache; None where it can be neither read nor made anew, as on a disk that is full or read-only."""
        path = self._files.local / FILE
        try:
            db = _opened(path)
        except _DAMAGE:
            try:
                _forget(path)
                db = _opened(path)
            except (OSError, *_DAMAGE):
                db = None
        except OSError:
            db = None
        if db is None:
            yield None
            return
        try:
            with closing(db):
                yield db
        except sqlite3.OperationalError:
            return
        except _DAMAGE:
            with suppress(OSError):
                _forget(path)


def _opened(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, timeout=60)
    db.text_factory = lambda raw: raw.decode(errors="replace")  # a damaged row fails by its mark, and alone
    try:
        db.execute("pragma journal_mode=wal")
        db.execute("pragma synchronous=normal")
        db.execute(_CREATE)
        db.execute("select name, entry, mark from files limit 1").fetchone()
    except _DAMAGE:
        db.close()
        raise
    return db


def _forget(path: Path) -> None:
    for name in (FILE, f"{FILE}-wal", f"{FILE}-shm"):
        path.with_name(name).unlink(missing_ok=True)


def _mark(name: str, text: str) -> bytes:
    return blake2b(f"{name}\n{text}".encode(), digest_size=16).digest()


def _from_json(text: str) -> Entry:
    entry = Entry(*json.loads(text))
    return entry._replace(place=place_of(entry.name))


def _entry(stamp: Stamp, meta: dict, written: Written) -> Entry:
    return Entry(
        *stamp,
        table=stamp.name.split("/", 1)[0],
        place=place_of(stamp.name),
        version=meta["schema_version"],
        rows=written.rows,
        digest=written.digest,
        inputs=meta["inputs"],
        first_task=written.first_task,
        last_task=written.last_task,
        sealed=bool(meta.get("sealed")),
    )


def _verified(files: Files, stamp: Stamp) -> Entry:
    where = files.address(stamp.name)
    again = "remove it and run its stage again"
    table = stamp.name.split("/", 1)[0]
    place_of(stamp.name)  # raises where no shard can be
    try:
        with files.open(stamp.name) as file:
            whole = is_whole(file)
            if whole is False:
                raise BadTable(f"{where} is damaged: its bytes are not those that were written", remedy=again)
            file.seek(0)
            footer = pq.read_metadata(file)
            found = (footer.metadata or {}).get(META)
            if found is None:
                raise BadTable(f"{where} was not written by branchpoint", remedy="move it out of the store")
            meta = json.loads(found)
            meta["schema_version"] = version = int(meta["schema_version"])
            meta["inputs"] = dict(meta["inputs"])
            if whole is None and meta.get("sealed"):
                raise BadTable(f"{where} is damaged: its seal is lost", remedy=again)
            written = Written(Path(where), footer.num_rows, str(meta["digest"]), *_task_range(footer))
    except FileNotFoundError as error:
        raise BadTable(f"{where} went away while it was read", remedy="run the command again") from error
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, OSError) and error.errno:
            raise unreadable(where, error) from error
        raise BadTable(f"{where} is damaged: {' '.join(str(error).split())[:200]}", remedy=again) from error
    if meta.get("table") != table or table not in TABLES:
        raise BadTable(f"{where} holds {meta.get('table')}, not {table}", remedy="move it out of the store")
    if version > version_of(table):
        raise BadTable(
            f"{where} has version {version} of {table}, this branchpoint reads up to {version_of(table)}",
            remedy="update branchpoint",
        )
    if (other := _other_column(footer, table, version)) is not None:
        raise BadTable(f"{where} is damaged: its column {other} is not that of version {version}", remedy=again)
    return _entry(stamp, meta, written)


def _other_column(footer: pq.FileMetaData, table: str, version: int) -> str | None:
    """The first column of a version that a file lacks or has in another type."""
    found, added = footer.schema.to_arrow_schema(), added_since(table, version)
    types = dict(zip(found.names, found.types, strict=True))
    expected = (field for field in arrow_schema(TABLES[table]) if field.name not in added)
    return next((field.name for field in expected if types.get(field.name) != field.type), None)


def _task_range(footer: pq.FileMetaData) -> tuple[str | None, str | None]:
    """First and last task of a file, from its statistics.

    Raises:
        ValueError: a task lies in two row groups, or they are out of order; no pass could keep tasks whole.
    """
    names = [footer.schema.column(index).path for index in range(footer.num_columns)]
    if "task" not in names or footer.num_rows == 0:
        return None, None
    column = names.index("task")
    groups = [footer.row_group(index).column(column).statistics for index in range(footer.num_row_groups)]
    for one, following in pairwise(groups):
        if one.max >= following.min:
            raise ValueError(f"row groups are not of whole tasks in their order, as that of {following.min}")
    return groups[0].min, groups[-1].max
