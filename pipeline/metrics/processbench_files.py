"""ProcessBench's files: solutions cut into steps, with the place of the first wrong one. Text is not encoded here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import polars as pl

from pipeline.errors import BadInput

COLUMNS = ("problem", "steps", "label")
"""What is read of a row; `id`, `generator`, `final_answer` and others are passed over."""


class Case(NamedTuple):
    """A solution. label: place of its first wrong step, from 0; -1: all are right. subset: its file's name."""

    subset: str
    problem: str
    steps: list[str]
    label: int


def read_processbench(path: Path) -> list[Case]:
    """The solutions of a file, or of all in a folder, by name.

    Args:
        path: .json (a list of objects), .jsonl or .parquet, as the Hub's Qwen/ProcessBench has them.

    Raises:
        BadInput: there is no such file, or a row of it is none; names file and row.
    """
    return [case for file in processbench_files(path) for case in _read(file)]


def processbench_files(path: Path) -> list[Path]:
    """The files that are read, by name.

    Raises:
        BadInput: there is none.
    """
    files = sorted(file for file in path.iterdir() if file.suffix in _READERS) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise BadInput(f"{path} holds no file", remedy=f"give {', '.join(_READERS)} files of ProcessBench")
    return files


def _read(file: Path) -> list[Case]:
    if file.suffix not in _READERS:
        raise BadInput(f"{file} is of no known kind", remedy=f"give one of {', '.join(_READERS)}")
    try:
        rows = _READERS[file.suffix](file)
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(f"{file} cannot be read: {reason}", remedy="give a file of ProcessBench") from error
    subset = file.stem.partition("-")[0]
    return [_case(row, subset, f"{file}, row {number}") for number, row in enumerate(rows)]


def _case(row: object, subset: str, where: str) -> Case:
    remedy = "give problem (text), steps (a list of texts) and label (place of the first wrong step, or -1)"
    lacking = [name for name in COLUMNS if not isinstance(row, dict) or name not in row]
    if lacking:
        raise BadInput(f"{where} lacks {', '.join(lacking)}", remedy=remedy)
    problem, steps, label = row["problem"], row["steps"], row["label"]
    texts = isinstance(steps, list) and steps and all(isinstance(step, str) for step in steps)
    if not isinstance(problem, str) or not texts:
        raise BadInput(f"{where}: its problem or a step is no text, or there is no step", remedy=remedy)
    if type(label) is not int or not -1 <= label < len(steps):
        raise BadInput(f"{where}: label {label!r} is the place of none of its {len(steps)} steps", remedy=remedy)
    return Case(subset, problem, steps, label)


def _json(file: Path) -> list:
    found = json.loads(file.read_text())
    if not isinstance(found, list):
        raise ValueError("it is no list of objects")
    return found


_READERS = {
    ".json": _json,
    ".jsonl": lambda file: [json.loads(line) for line in file.read_text().splitlines() if line.strip()],
    ".parquet": lambda file: pl.read_parquet(file).to_dicts(),
}
