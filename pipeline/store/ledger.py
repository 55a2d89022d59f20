"""The ledger of requests: every completion that was put into it, found again by content key.

SQLite in WAL mode. A key is written once with its result; a failed request is kept with its error
and the number of tries, and is tried again when asked again. A crash loses only what was in flight.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

from pipeline.errors import StoreFull
from pipeline.generation.engine import Completion, Request

_CREATE = """
create table if not exists completions (
    key text primary key, policy text not null, engine text not null, sample integer not null,
    sampling text not null, prompt blob not null, token_ids blob, logprobs blob, finish text,
    cached integer, seconds real, attempts integer not null, error text
) without rowid
"""
_PUT = """
insert into completions values (?,?,?,?,?,?,?,?,?,?,?,1,?)
on conflict(key) do update set token_ids=excluded.token_ids, logprobs=excluded.logprobs, finish=excluded.finish,
    cached=excluded.cached, seconds=excluded.seconds, attempts=attempts+1, error=excluded.error
where completions.error is not null
"""
_LOOKUP = 500


class Entry(NamedTuple):
    """A request of the ledger with its completion; `attempts` counts every try."""

    completion: Completion
    prompt: np.ndarray
    policy: str
    engine: str
    sample: int
    sampling: str
    attempts: int


class Ledger:
    """Opened on a file; use as a context manager."""

    def __init__(self, path: Path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=60)
            self._db.execute("pragma journal_mode=wal")
            self._db.execute("pragma synchronous=normal")
            self._db.execute(_CREATE)
        except (OSError, sqlite3.DatabaseError) as error:
            raise StoreFull(f"cannot open {path}: {error}", remedy="free some space or choose another store") from error

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._db.close()

    def put(self, pairs: Iterable[tuple[Request, Completion]], *, policy: str, engine: str) -> None:
        """Make completions durable; a result already there stays as it is."""
        rows = [
            (
                request.key,
                policy,
                engine,
                request.sample,
                request.sampling.as_json(),
                request.prompt.astype("<i4").tobytes(),
                completion.token_ids.astype("<i4").tobytes(),
                completion.logprobs.astype("<f4").tobytes(),
                completion.finish,
                completion.cached,
                completion.seconds,
                completion.error,
            )
            for request, completion in pairs
        ]
        try:
            with self._db:
                self._db.executemany(_PUT, rows)
        except sqlite3.OperationalError as error:
            raise StoreFull(
                f"cannot write the ledger of requests: {error}",
                remedy="free some space or choose another store, then run again; what is recorded is kept",
            ) from error

    def get(self, keys: Sequence[str]) -> dict[str, Entry]:
        """The entries there are, failures included."""
        found: dict[str, Entry] = {}
        for start in range(0, len(keys), _LOOKUP):
            some = keys[start : start + _LOOKUP]
            query = f"select * from completions where key in ({','.join('?' * len(some))})"
            for (
                key,
                policy,
                engine,
                sample,
                sampling,
                prompt,
                ids,
                logprobs,
                finish,
                cached,
                seconds,
                tries,
                error,
            ) in self._db.execute(query, some):
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
                found[key] = Entry(completion, prompt_ids, policy, engine, sample, sampling, tries)
        return found

    def count(self) -> int:
        """Requests recorded."""
        return self._db.execute("select count(*) from completions").fetchone()[0]
