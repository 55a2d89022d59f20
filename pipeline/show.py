"""What the commands print: rows, trees, reports. Text of models and files is shown, never obeyed.

Every string is made plain before it reaches the terminal, so no escape sequence or markup in it does anything.
"""

from __future__ import annotations

import csv
import datetime
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any, TextIO

from pipeline.errors import BadConfig
from pipeline.report import Report

if TYPE_CHECKING:
    from pipeline.store.query import ShownNode

TABLE_ROWS = 200
"""Rows of a table shown to people; --csv and --json give all."""


def plain(text: str) -> str:
    """The text on one line, with whatever is not printable spelt out (`\\n`, `\\x1b`, `\\u202e`)."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def node_line(node: ShownNode) -> str:
    """A node on one line: number, origin, reward if judged, text."""
    reward = "" if node.reward is None else f" [reward {node.reward:g}]"
    return f"{node.node} {node.origin}{reward}: {plain(node.text)}"


def tree_lines(nodes: Sequence[ShownNode]) -> Iterator[str]:
    """The nodes of one tree, each under its parent and two blanks further in."""
    below: dict[int | None, list[ShownNode]] = {}
    for node in nodes:
        below.setdefault(node.parent, []).append(node)
    waiting = [(0, node) for node in reversed(below.get(None, []))]
    while waiting:
        depth, node = waiting.pop()
        yield "  " * depth + node_line(node)
        waiting.extend((depth + 1, child) for child in reversed(below.get(node.node, [])))


def report_lines(report: Report) -> Iterator[str]:
    """A finished stage for people: counts whole, with thousands apart; shares and means with three decimals."""
    yield f"{report.stage} of suite {report.suite}, round {report.round}"
    for name, count in report.rows.items():
        yield f"  {name:<20} {count:,} rows"
    for name, number in report.numbers.items():
        yield f"  {name:<20} {short_figure(number)}"
    current = report.shards - report.fresh
    yield f"  {'shards':<20} {report.fresh} written now, {current} already current"
    yield f"  {'seconds':<20} {report.seconds:.1f}"
    for note in report.notes:
        yield f"  {plain(note)}"


def short_figure(value: float | int) -> str:
    """A number of a report: three decimals tell a share or a mean from a count."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.3f}" if value == 0 or abs(value) >= 5e-4 else f"{value:.1e}"


def report_json(report: Report) -> str:
    """A finished stage as one JSON object."""
    return json.dumps(json_value(asdict(report)), ensure_ascii=False)


def json_value(value: Any) -> Any:
    """A value of a table as JSON has it: what is not finite is null, bytes are hexadecimal."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | Decimal):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): json_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(inner) for inner in value]
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else str(value)


def print_json(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, to: TextIO) -> None:
    """One object a row, one row a node.

    Raises:
        BadConfig: two columns have one name, so an object cannot hold both.
    """
    for name in columns:
        if columns.count(name) > 1:
            raise BadConfig(f"two columns are called {name!r}", remedy="rename one with AS, or ask for --csv")
    for row in rows:
        values = {name: json_value(value) for name, value in zip(columns, row, strict=True)}
        print(_json(values), file=to)


def print_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, to: TextIO) -> None:
    """A header and a node a row; null is empty, lists and structs are JSON. Text is as it is, but made plain where a
    terminal would obey it."""
    writer, shown = csv.writer(to, lineterminator="\n"), plain if to.isatty() else str
    writer.writerow(map(shown, columns))
    for row in rows:
        values = (_json(value) if isinstance(value, list | dict) else value for value in map(json_value, row))
        writer.writerow([shown(value) if isinstance(value, str) else value for value in values])


def _json(value: Any) -> str:
    """As JSON on one line; letters stand for themselves, what is not printable is escaped."""
    text = json.dumps(value, ensure_ascii=False)
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in text)


UNBOUNDED = 100_000


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, to: TextIO) -> None:
    """The first rows as a table, as wide as the terminal; as wide as they are where there is none."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = list(islice(rows, TABLE_ROWS + 1))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(columns):
        numeric = any(isinstance(row[index], int | float | Decimal) for row in shown[:TABLE_ROWS])
        table.add_column(Text(plain(name)), justify="right" if numeric else "left", overflow="fold")
    for row in shown[:TABLE_ROWS]:
        table.add_row(*(Text(_cell(value), style="dim" if value is None else "") for value in row))
    console = Console(file=to, highlight=False, width=None if to.isatty() else UNBOUNDED)
    console.print(table)
    if len(shown) > TABLE_ROWS:
        print(f"the first {TABLE_ROWS} rows; --csv or --json gives all", file=to)


def _cell(value: Any) -> str:
    if value is None:
        return "null"
    value = json_value(value) if not isinstance(value, float) else value
    if isinstance(value, float):
        return _figure(value)
    return plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _figure(value: float | int) -> str:
    """A number for people: four decimals at most, thousands apart."""
    if isinstance(value, float):
        return f"{value:,.4f}".rstrip("0").rstrip(".") if 1e-3 <= abs(value) < 1e15 else f"{value:g}"
    return f"{value:,}"
