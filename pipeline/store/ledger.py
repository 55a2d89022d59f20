"""The ledger of requests: every completion that was put into it, found again by content key.

SQLite in WAL mode. A key is written once with its result; a failed request is kept with its error
and the number of tries, and is tried again when asked again. A crash loses only what was in flight.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

from pipeline.errors import BadTable, StoreFull
from pipeline.generation.engine import Completion, Request

_CREATE = """
create table if not exists completions (
    key text primary key, policy text not null, engine text not null, sample integer not null,
    sampling text not null, prompt blob not null, token_ids blob, logprobs blob, finish text,
    cached integer, seconds real, attempts integer not null, error text, asked_by text, mark blob
) without rowid
"""
_CREATE_CLOCK = "create table if not exists clock (asked_by text primary key, seconds real not null) without rowid"
_PUT = """
insert into completions values (?,?,?,?,?,?,?,?,?,?,?,1,?,?,?)
on conflict(key) do update set token_ids=excluded.token_ids, logprobs=excluded.logprobs, finish=excluded.finish,
    cached=excluded.cached, seconds=excluded.seconds, attempts=attempts+1, error=excluded.error,
    asked_by=excluded.asked_by, mark=mark_of(attempts + 1, excluded.mark)
where completions.error is not null
"""
_PUT_SECONDS = """
insert into clock values (?,?) on conflict(asked_by) do update set seconds=seconds + excluded.seconds
"""
_ADDED = {"asked_by": "text", "mark": "blob"}
"""Columns that ledgers of older versions lack; who asked is null there."""
_COLUMNS = (
    "key, policy, engine, sample, sampling, prompt, token_ids, logprobs, finish, cached, seconds, error, asked_by"
)
_LOOKUP = 500
_READ_ONLY = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
"""What SQLite says of a file that it may not write, or not beside; what is recorded can be read all the same."""
_DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError)
"""SQLite quotes what it does not understand, and Python cannot always read the quote."""


class Entry(NamedTuple):
    """A request of the ledger with its completion.

    attempts: every try, failures included.
    asked_by: suite/round/stage that was the first to ask. None: not known.
    """

    completion: Completion
    prompt: np.ndarray
    policy: str
    engine: str
    sample: int
    sampling: str
    attempts: int
    asked_by: str | None


class Ledger:
    """Opened on a file; use as a context manager. One that may not be written is read."""

    def __init__(self, path: Path):
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._open(str(path))
            except sqlite3.OperationalError as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _READ_ONLY or not path.exists():
                    raise
                beside = path.with_name(f"{path.name}-wal").exists()
                self._open(f"{path.absolute().as_uri()}?mode=ro{'' if beside else '&immutable=1'}", to_write=False)
        except (OSError, *_DAMAGE) as error:
            raise StoreFull(f"cannot open {path}: {error}", remedy="free some space or choose another store") from error

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._db.close()

    def put(
        self,
        pairs: Iterable[tuple[Request, Completion]],
        *,
        policy: str,
        engine: str,
        asked_by: str,
        seconds: float = 0.0,
    ) -> None:
        """Make completions durable; a result already there stays as it is.

        Args:
            seconds: on the clock that they took, added to what `asked_by` took before.
        """
        rows = []
        for request, completion in pairs:
            values = (
                request.key,
                policy,
                engine,
                int(request.sample),
                request.sampling.as_json(),
                request.prompt.astype("<i4").tobytes(),
                completion.token_ids.astype("<i4").tobytes(),
                completion.logprobs.astype("<f4").tobytes(),
                completion.finish,
                completion.cached,
                completion.seconds,
                completion.error,
                asked_by,
            )
            rows.append((*values, _mark(values)))
        try:
            with self._db:
                self._db.executemany(_PUT, rows)
                if seconds:
                    self._db.execute(_PUT_SECONDS, (asked_by, seconds))
        except sqlite3.OperationalError as error:
            raise StoreFull(
                f"cannot write the ledger of requests: {error}",
                remedy="free some space or choose another store, then run again; what is recorded is kept",
            ) from error
        except _DAMAGE as error:
            raise self._damaged(error) from error

    def get(self, keys: Sequence[str]) -> dict[str, Entry]:
        """The entries there are, failures included."""
        found: dict[str, Entry] = {}
        for start in range(0, len(keys), _LOOKUP):
            some = keys[start : start + _LOOKUP]
            query = f"select {_COLUMNS}, attempts, mark from completions where key in ({','.join('?' * len(some))})"
            for *values, attempts, mark in self._rows(query, some):
                if mark != _mark_of(attempts, _mark(values)):
                    raise self._damaged(f"request {values[0]} is not as it was recorded")
                key, policy, engine, sample, sampling, prompt, *answer, by = values
                ids, logprobs, finish, cached, seconds, error = answer
                completion = Completion(
                    key,
                    np.frombuffer(ids or b"", "<i4"),
                    np.frombuffer(logprobs or b"", "<f4"),
                    finish,
                    cached,
                    seconds,
                    error,
                )
                prompt_ids = np.frombuffer(prompt, "<i4")
                found[key] = Entry(completion, prompt_ids, policy, engine, sample, sampling, attempts, by)
        return found

    def seconds(self, asked_by: str) -> float | None:
        """On the clock, for what a stage paid; None where nothing is known, as in ledgers of older versions."""
        if not self._rows("select 1 from sqlite_master where name = 'clock'"):
            return None
        found = self._rows("select seconds from clock where asked_by = ?", (asked_by,))
        return found[0][0] if found else None

    def count(self) -> int:
        """Requests recorded."""
        return self._rows("select count(*) from completions")[0][0]

    def damage(self) -> Iterator[str]:
        """What is wrong with the file itself and with single requests; nothing where all is well."""
        for (line,) in self._rows("pragma quick_check"):
            if line != "ok":
                yield line
        for *values, attempts, mark in self._each(f"select {_COLUMNS}, attempts, mark from completions"):
            if mark != _mark_of(attempts, _mark(values)):
                yield f"request {values[0]} is not as it was recorded"

    def _open(self, where: str, *, to_write: bool = True) -> None:
        self._db = sqlite3.connect(where, timeout=60, uri=not to_write)
        try:
            self._db.create_function("mark_of", 2, _mark_of, deterministic=True)
            self._db.create_function("mark_row", -1, lambda *values: _mark(values), deterministic=True)
            if to_write:
                self._db.execute("pragma journal_mode=wal")
                self._db.execute("pragma synchronous=normal")
                self._db.execute(_CREATE)
                self._db.execute(_CREATE_CLOCK)
            if self._lacks():
                self._upgrade()
        except _DAMAGE:
            self._db.close()
            raise

    def _lacks(self) -> list[str]:
        found = {row[1] for row in self._db.execute("pragma table_info(completions)")}
        return [column for column in _ADDED if column not in found]

    def _upgrade(self) -> None:
        """Give a ledger of an older version the columns it lacks; every row is marked once and for all."""
        with self._db:
            self._db.execute("begin immediate")
            for column in self._lacks():
                self._db.execute(f"alter table completions add column {column} {_ADDED[column]}")
            self._db.execute(
                f"update completions set mark = mark_of(attempts, mark_row({_COLUMNS})) where mark is null"
            )

    def _rows(self, query: str, values: Sequence[str] = ()) -> list[tuple]:
        return list(self._each(query, values))

    def _each(self, query: str, values: Sequence[str] = ()) -> Iterator[tuple]:
        try:
            yield from self._db.execute(query, values)
        except _DAMAGE as error:
            raise self._damaged(error) from error

    def _damaged(self, what: object) -> BadTable:
        return BadTable(
            f"the ledger of requests {self._path} is damaged: {what}",
            remedy="move it out of the store; what it held is asked again",
        )


def _mark(values: Sequence[object]) -> bytes:
    """Digest of a request as recorded, `attempts` aside."""
    sink = blake2b(digest_size=16)
    for value in values:
        data = value if isinstance(value, bytes) else repr(value).encode()
        sink.update(len(data).to_bytes(8, "little") + data)
    return sink.digest()


def _mark_of(attempts: int, mark: bytes) -> bytes:
    """Digest of a request with the number of its tries."""
    return mark if attempts == 1 else blake2b(repr(attempts).encode() + mark, digest_size=16).digest()
