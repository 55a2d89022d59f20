"""Labels of people from a file of JSON Lines: one object a step and author. Names every line at fault.

Does not know which nodes there are.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from pipeline.errors import BadInput
from pipeline.labels.rows import label_rows

LINE = "line of file"
COLUMNS: dict[str, pl.DataType] = {
    LINE: pl.Int64(),
    "tree": pl.String(),
    "node": pl.Int32(),
    "hard": pl.Boolean(),
    "soft": pl.Float32(),
    "rationale": pl.String(),
    "author": pl.String(),
    "created": pl.Datetime("us", "UTC"),
}
_MOST_TOLD = 5
_LARGEST = 2**31 - 1


class Violation(NamedTuple):
    """line: from 1. why: what is wrong with it."""

    line: int
    why: str


def read_human_labels(path: Path) -> pl.DataFrame:
    """The labels of a file, in the columns of COLUMNS.

    A line is an object with `tree`, `node`, `author`, one at least of `hard` (true, false) and `soft` (in [0, 1]), and
    where known `rationale` and `created` (ISO 8601). With `soft` alone, `hard` is unknown.

    Raises:
        BadInput: the file cannot be read, or lines of it are no labels, or an author speaks twice of a step; names the
            first lines.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}", remedy="give a file of JSON Lines with --file") from error
    rows: list[dict[str, Any]] = []
    violations: list[Violation] = []
    seen: dict[tuple, int] = {}
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        row = _read(text)
        if isinstance(row, str):
            violations.append(Violation(number, row))
            continue
        key = (row["tree"], row["node"], row["author"])
        if key in seen:
            violations.append(Violation(number, f"{row['author']} spoke of this step in line {seen[key]}"))
        seen.setdefault(key, number)
        rows.append({LINE: number, **row})
    refuse(path, violations)
    if not rows:
        raise BadInput(f"{path} has no labels", remedy="give one a line")
    return pl.DataFrame(rows, schema=COLUMNS, orient="row")


def refuse(path: Path, violations: list[Violation]) -> None:
    """Raise where there are violations; tells the first of them.

    Raises:
        BadInput: there are.
    """
    if violations:
        told = "; ".join(f"line {line}: {why}" for line, why in violations[:_MOST_TOLD])
        more = f"; and {len(violations) - _MOST_TOLD} more" if len(violations) > _MOST_TOLD else ""
        raise BadInput(f"{path}, {told}{more}", remedy="correct these lines; nothing was written")


def human_rows(said: pl.DataFrame) -> pl.DataFrame:
    """Rows of the step_labels table, the author in place of a version.

    Args:
        said: COLUMNS and `task`.
    """
    soft = pl.coalesce("soft", pl.col("hard").cast(pl.Float32))
    return label_rows(said.with_columns(soft=soft), labeller="human", version="").with_columns(version=said["author"])


def _read(text: str) -> dict[str, Any] | str:
    """A line's label; or why it is none."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"is no JSON: {error}"
    if not isinstance(said, dict):
        return "is no object"
    if unknown := said.keys() - COLUMNS.keys():
        return f"has a {min(unknown)!r}, which is not asked for"
    row = {name: said.get(name) for name in COLUMNS if name != LINE}
    for name in ("tree", "author"):
        if not isinstance(row[name], str) or not row[name]:
            return f"{name} is {row[name]!r}, no text"
    if type(row["node"]) is not int or not 0 <= row["node"] <= _LARGEST:
        return f"node is {row['node']!r}, no number of a node"
    hard, soft = row["hard"], row["soft"]
    if not (hard is None or isinstance(hard, bool)):
        return f"hard is {hard!r}, neither true nor false"
    if not (soft is None or (isinstance(soft, int | float) and not isinstance(soft, bool) and 0 <= soft <= 1)):
        return f"soft is {soft!r}, not in [0, 1]"
    if hard is None and soft is None:
        return "has neither hard nor soft"
    if not (row["rationale"] is None or isinstance(row["rationale"], str)):
        return f"rationale is {row['rationale']!r}, no text"
    if row["created"] is not None:
        try:
            when = datetime.fromisoformat(row["created"])
        except (TypeError, ValueError):
            return f"created is {row['created']!r}, no time of ISO 8601"
        row["created"] = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    return row
