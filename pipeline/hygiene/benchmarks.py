"""Benchmarks that tasks must not repeat: their n-grams, from files of JSON lines, text or Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import BadInput
from pipeline.hygiene.grams import grams, word_codes

WORDS = 13
"""Of an n-gram, as GPT-3's decontamination had it."""
FIELDS = ("question", "problem", "prompt", "instruction", "input", "query", "text")
"""Of a row, what is asked; where it has none of them, all of its texts."""
ENDINGS = (".jsonl", ".txt", ".parquet")


@dataclass(frozen=True, slots=True, eq=False)
class Benchmark:
    """grams: `[G]` uint64, sorted. digest: of the file."""

    name: str
    grams: np.ndarray
    digest: str


class Overlap(NamedTuple):
    """benchmark: that has most of the text's n-grams; None: none has any. share: of them that it has."""

    benchmark: str | None
    share: float


def read_benchmark(path: Path, *, words: int = WORDS) -> Benchmark:
    """A benchmark under the name of its file.

    Args:
        words: of an n-gram.

    Raises:
        BadInput: it cannot be read, or has no text; names the line.
    """
    try:
        digest = sha256(path.read_bytes()).hexdigest()
        found = [grams(word_codes(text), words) for text in _texts(path)]
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise BadInput(f"benchmark {path} cannot be read: {error}", remedy="correct the path or the file") from error
    every = np.unique(np.concatenate([*found, np.empty(0, np.uint64)]))
    if not len(every):
        raise BadInput(f"benchmark {path} has no text", remedy=f"give rows with {', '.join(FIELDS)}")
    return Benchmark(path.stem, every, digest)


def overlaps(texts: Sequence[str], benchmarks: Sequence[Benchmark], *, words: int = WORDS) -> list[Overlap]:
    """How much of each text the benchmarks have.

    A text shorter than an n-gram is compared whole with those of a benchmark that are as short.

    Source: GPT-3 (Brown et al., 2020), appendix C; there any shared 13-gram counts, here its share is told.
    """
    return [_most(grams(word_codes(text), words), benchmarks) for text in texts]


def _most(own: np.ndarray, benchmarks: Sequence[Benchmark]) -> Overlap:
    best = Overlap(None, 0.0)
    for benchmark in benchmarks:
        share = float(np.isin(own, benchmark.grams, assume_unique=True).mean()) if len(own) else 0.0
        if share > best.share:
            best = Overlap(benchmark.name, share)
    return best


def _texts(path: Path) -> Iterator[str]:
    if path.suffix not in ENDINGS:
        raise BadInput(f"benchmark {path} is of no kind that is read", remedy=f"give one of {', '.join(ENDINGS)}")
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    yield from _asked(row)
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if path.suffix == ".txt":
                yield line
            elif line.strip():
                yield from _asked(_row(line, path, number))


def _row(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}, line {number} is no JSON", remedy="correct or remove the line") from error


def _asked(row: Any) -> Iterable[str]:
    """What a row asks."""
    if isinstance(row, Mapping):
        named = [row[name] for name in FIELDS if isinstance(row.get(name), str)]
        return named or [text for value in row.values() for text in _asked(value)]
    if isinstance(row, str):
        return [row]
    return [text for value in row for text in _asked(value)] if isinstance(row, list) else []
