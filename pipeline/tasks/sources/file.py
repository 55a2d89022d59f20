"""Tasks from a file of one's own: JSON lines, Parquet, or a dataset of the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import BadConfig, BadInput
from pipeline.tasks.answers import find_answer, split_solution
from pipeline.tasks.row import TaskRow

VERIFIER = "math"
MORE = {"train": "lower held_out or give it more rows", "held_out": "raise held_out or give it more rows"}
"""What to change in a band that has no task of a split."""

_SUFFIXES = (".jsonl", ".parquet")
_UNREAD = (
    *(".csv", ".tsv", ".json", ".ndjson", ".txt", ".md", ".tex", ".html", ".xml", ".yaml", ".yml", ".toml"),
    *(".xls", ".xlsx", ".ods", ".arrow", ".feather", ".orc", ".avro", ".h5", ".npz", ".pkl", ".pickle", ".pt"),
    *(".db", ".sqlite", ".duckdb", ".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".7z"),
)
"""Ends of files that are not read here; a name with one of them is no dataset's."""


@dataclass(frozen=True, slots=True)
class Options:
    """path: of a .jsonl or .parquet file (relative to the suite's file), or the name of a Hub dataset.

    columns:  names in the file of question, answer and solution.
    split:    of a Hub dataset, which one is read.
    held_out: share of the tasks kept for evaluation, chosen by the question's hash; 0 keeps none, 1 all.
    limit:    at most so many rows; 0 all.

    Raises:
        BadConfig: held_out is no share, or the limit is below 0.
    """

    path: str
    columns: dict[str, str] = field(default_factory=dict)
    split: str = "train"
    held_out: float = 0.2
    limit: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.held_out <= 1:
            raise BadConfig(f"held_out is {self.held_out}", remedy="give a share of the tasks from 0 to 1, such as 0.2")
        if self.limit < 0:
            raise BadConfig(f"limit is {self.limit}", remedy="give a number of rows, or 0 for all")


def read(options: Options, *, base: Path = Path()) -> Iterator[TaskRow]:
    """The tasks of the file, in its order.

    An answer in GSM8K's form (`… #### 42`) is taken apart into solution and answer; without an answer
    column the solution must state one (`####` or `\\boxed{}`).

    Raises:
        BadInput: the file cannot be read, or a row has no question or answer; names file and row.
    """
    question, answer, solution = (options.columns.get(name, name) for name in ("question", "answer", "solution"))
    for count, (number, row) in enumerate(_rows(options, base), start=1):
        if options.limit and count > options.limit:
            return
        where = f"{options.path}, row {number}"
        text = row.get(question)
        if not isinstance(text, str) or not text.strip():
            raise BadInput(
                f"{where}: no {question!r}", remedy="every row needs a question; name the column under columns"
            )
        for column in (answer, solution):
            if isinstance(row.get(column), list | dict | bytes):
                raise BadInput(
                    f"{where}: {column!r} is a {type(row[column]).__name__}", remedy="give one text or one number"
                )
        reference = row.get(solution)
        given = row.get(answer)
        given = None if given is None else str(given).strip()
        if given and "####" in given:
            reference, given = split_solution(given)
        if not given and isinstance(reference, str):
            given = find_answer(reference)
        if not given:
            raise BadInput(
                f"{where}: no answer", remedy=f"give {answer!r}, or a solution that ends in '#### …' or \\boxed{{…}}"
            )
        yield TaskRow(
            split="held_out" if _share(text) < options.held_out else "train",
            question=text,
            answer=given,
            reference_solution=reference if isinstance(reference, str) and reference.strip() else None,
            info=None,
        )


def _share(question: str) -> float:
    """A number in [0, 1) from the question alone, blanks and case aside."""
    folded = " ".join(question.lower().split())
    return int.from_bytes(hashlib.sha256(folded.encode()).digest()[:8]) / 2**64


def _rows(options: Options, base: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows with their numbers: of the line in JSON lines, of the row elsewhere."""
    path = base / options.path
    if path.suffix.lower() in _SUFFIXES:
        if not path.is_file():
            raise BadInput(f"{path} does not exist", remedy="correct the path in the suite")
        yield from _json_lines(path) if path.suffix.lower() == ".jsonl" else _parquet(path)
        return
    if path.suffix.lower() in _UNREAD or path.exists() or options.path.count("/") > 1:
        raise BadInput(
            f"{path} is no .jsonl or .parquet file", remedy="save it as one, or name a dataset of the Hub (OWNER/NAME)"
        )
    import datasets

    try:
        yield from enumerate(datasets.load_dataset(options.path, split=options.split, streaming=True), start=1)
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{options.path} is no .jsonl or .parquet file and no dataset that loads: {str(error).splitlines()[0]}",
            remedy="correct the path in the suite",
        ) from error


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is text no file takes
            except (ValueError, RecursionError) as error:
                raise BadInput(f"{path}:{number} is not JSON: {error}", remedy="mend or remove the line") from error
            if not isinstance(row, dict):
                raise BadInput(f"{path}:{number} is no JSON object", remedy="one object a line")
            yield number, row


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        batches = pq.ParquetFile(path).iter_batches(1024)
        yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)
    except pa.ArrowInvalid as error:
        raise BadInput(f"{path} is no Parquet file: {error}", remedy="write it again") from error
