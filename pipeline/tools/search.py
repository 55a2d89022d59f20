"""Full-text search over passages: BM25, as SQLite's FTS5 has it. Any text is a query; none is syntax."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from pipeline.errors import BadConfig, check_counts
from pipeline.tools.corpus.passages import Passage, read_passages
from pipeline.tools.corpus.world import WorldOptions, make_world
from pipeline.tools.toolbox import Arguments, Document, Tool, ToolAnswer

VERSION = "1"
MOST_WORDS = 64
"""Of a query; the others are left out."""
_WORD = re.compile(r"[^\W_]+")


class Hit(NamedTuple):
    """A passage that a query found. score: BM25, above 0, the larger the better; words of the title count twice."""

    passage: Passage
    score: float


class Index:
    """An index of passages: in memory, or in a file below a cache folder that is made once for the same passages.

    Threads may share it.

    Args:
        passages: with ids of their own.
        cache: folder of indexes, each named by what is in it; None: in memory.
    """

    def __init__(self, passages: Sequence[Passage], *, cache: Path | None = None):
        self.digest = _digest(passages)
        if cache is None:
            self._database = sqlite3.connect(":memory:", check_same_thread=False)
            _fill(self._database, passages)
        else:
            path = cache / f"{self.digest}.sqlite"
            if not path.exists():
                _write(path, passages)
            self._database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
        self._lock = threading.Lock()

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def search(self, query: str, k: int) -> list[Hit]:
        """The best `k` of the passages that have a word of the query, or fewer; of equal scores the earlier first.

        Words are compared without case, accents and English endings.
        """
        words = list(dict.fromkeys(_WORD.findall(query.lower())))[:MOST_WORDS]
        if not words or k < 1:
            return []
        asked = " OR ".join(f'"{word}"' for word in words)
        with self._lock:
            found = self._database.execute(_SEARCH, (asked, k)).fetchall()
        return [Hit(Passage(*row), -score) for *row, score in found]


_SEARCH = """
    SELECT id, title, text, bm25(passages, 0, 2, 1) AS score FROM passages WHERE passages MATCH ?
    ORDER BY score, rowid LIMIT ?
"""


def _digest(passages: Sequence[Passage]) -> str:
    digest = hashlib.sha256(f"{VERSION} {sqlite3.sqlite_version}".encode())
    for passage in passages:
        for text in passage:
            digest.update(f"{len(text)}:{text}".encode())
    return digest.hexdigest()[:32]


def _fill(database: sqlite3.Connection, passages: Sequence[Passage]) -> None:
    database.execute("CREATE VIRTUAL TABLE passages USING fts5(id UNINDEXED, title, text, tokenize='porter unicode61')")
    with database:
        database.executemany("INSERT INTO passages VALUES (?, ?, ?)", passages)


def _write(path: Path, passages: Sequence[Passage]) -> None:
    """Make the file under another name and move it into place, so that it is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{threading.get_native_id()}.unfinished")
    unfinished.unlink(missing_ok=True)
    with closing(sqlite3.connect(unfinished)) as database:
        _fill(database, passages)
    unfinished.replace(path)


@dataclass(frozen=True, slots=True)
class Options:
    """k: passages an answer has.

    corpus: path of a .jsonl file of passages; empty: the world below.
    world:  options of the world that is made (`WorldOptions`), those of a multi_hop source.
    cache:  folder of indexes; empty: in memory.

    Raises:
        BadConfig: no passage is asked for, or the world has other options.
    """

    k: int = 3
    corpus: str = ""
    world: dict[str, int] | None = None
    cache: str = ""

    def __post_init__(self) -> None:
        check_counts(self, of="search", k=1)
        try:
            WorldOptions(**self.world or {})
        except TypeError as error:
            raise BadConfig(f"search: {error}", remedy="correct the options of its world") from error


class SearchArguments(Arguments):
    """What is looked for."""

    query: str = Field(description="What to look for: names and words.", max_length=2000)


def opened(options: Options) -> Tool:
    """The tool, with its index.

    Raises:
        BadInput: the corpus cannot be read.
    """
    passages = read_passages(Path(options.corpus)) if options.corpus else make_world(_world(options)).passages
    index = Index(passages, cache=Path(options.cache) if options.cache else None)

    def answer(given: SearchArguments) -> ToolAnswer:
        hits = index.search(given.query, options.k)
        text, documents = "", []
        for hit in hits:
            text += "\n\n" if text else ""
            documents.append(Document(hit.passage.id, len(text)))
            text += shown(hit.passage)
        return ToolAnswer(text or "nothing was found", documents=tuple(documents))

    return Tool(
        name="search",
        description=f"Search an encyclopedia. Shows the {options.k} passages that fit best.",
        arguments=SearchArguments,
        answer=answer,
        version=f"{VERSION} {index.digest} {options.k}",
    )


def shown(passage: Passage) -> str:
    """A passage as the tool shows it: its id, its title, its text."""
    return f"[{passage.id}] {passage.title}\n{passage.text}" if passage.title else f"[{passage.id}] {passage.text}"


def _world(options: Options) -> WorldOptions:
    return WorldOptions(**options.world or {})
