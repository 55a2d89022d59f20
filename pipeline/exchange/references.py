"""What an export says of a tree beside what its format has room for, under one key, so that an import restores it.

A row of a table is a JSON object of its columns that are not null. Knows no format.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
import polars as pl

from pipeline.exchange.document import REFERENCE, SOURCE, Number, Record, Refused, Restored, TokenId
from schemas import TABLES
from schemas.base import Table

KEY = "branchpoint"
VERSION = 1
BESIDE = ("verdicts", "step_labels", "scores", "requests")
"""Tables whose rows of a node stand in the node's reference."""
_OF_NODE = ("task", "tree", "node")
_TYPES: dict[Any, Any] = {
    pl.String: str,
    pl.Int32: TokenId,
    pl.Int64: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)],
    pl.Float32: Number,
    pl.Float64: Number,
    pl.Boolean: bool,
    pl.Datetime: Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799_999_999)],  # the last microsecond of 9999
}


class _Message(msgspec.Struct):
    role: str
    content: str | list[Any] | None = None
    tool_call_id: str | None = None


_ADDED = {"atif": "extra", "prm800k": "question"}
"""By format, the object that its exporter adds to in a record that was kept as a whole."""


def _struct(name: str, table: type[Table]) -> type[msgspec.Struct]:
    fields = []
    for column, declared in table.columns().items():
        is_list = isinstance(declared.dtype, pl.List)
        inner = _TYPES[(declared.dtype.inner if is_list else declared.dtype).base_type()]
        kind = list[inner | None if inner is Number else inner] if is_list else inner
        fields.append((column, kind | None, None) if declared.nullable else (column, kind))
    return msgspec.defstruct(f"{name}_row", sorted(fields, key=len), kw_only=True)


_ROWS = {name: _struct(name, TABLES[name]) for name in ("tasks", "nodes", *BESIDE)}


def bare(row: Mapping[str, Any], *, without: Iterable[str] = ()) -> dict[str, Any]:
    """A row without its nulls; times as microseconds since 1970, UTC, as which they are restored too."""
    return {
        name: round(value.timestamp() * 1e6) if isinstance(value, datetime.datetime) else value
        for name, value in row.items()
        if value is not None and name not in without
    }


def node_reference(
    node: Mapping[str, Any], beside: Mapping[str, list[dict[str, Any]]], *, without: Iterable[str] = ()
) -> dict[str, Any]:
    """All that the store says of a node.

    Args:
        beside: rows by table: those of BESIDE, and credit, which is said but not restored.
        without: columns that the format holds elsewhere.
    """
    said: dict[str, Any] = bare(node, without=("token_count", *without))
    for table, rows in beside.items():
        if rows:
            said[table] = [bare(row, without=_OF_NODE) for row in rows]
    return said


def root_reference(task: Mapping[str, Any], round: str) -> dict[str, Any]:
    """What is said of a path as a whole."""
    return {"version": VERSION, "round": round, "task": bare(task)}


def restored(root: Any, nodes: Iterable[Mapping[str, Any]]) -> Restored:
    """A path from its references, checked to be rows of their tables.

    Args:
        root: of the path.
        nodes: references with the columns that stood elsewhere put back.

    Raises:
        Refused: a reference is of a newer version.
        msgspec.ValidationError: a value is no such thing as its column holds.
    """
    if not isinstance(root, dict) or root.get("version") != VERSION:
        raise Refused(f"{KEY} is not of version {VERSION}")
    task = _row("tasks", root.get("task"))
    found, asked = Restored(task, msgspec.convert(root.get("round"), str), []), set()
    for said in nodes:
        ids = said.get("token_ids")
        node = {"token_count": len(ids) if isinstance(ids, list) else 0, **said}
        of = {name: node.get(name) for name in _OF_NODE}
        found.nodes.append(_row("nodes", {name: value for name, value in node.items() if name not in BESIDE}))
        rows = {
            "verdicts": found.verdicts,
            "step_labels": found.labels,
            "scores": found.scores,
            "requests": found.requests,
        }
        for table, into in rows.items():
            for row in msgspec.convert(node.get(table) or [], list[dict[str, Any]]):
                read = _row(table, {**row, **of})
                if table == "requests":  # each step of an answer names that of all
                    if read["request"] in asked:
                        continue
                    asked.add(read["request"])
                into.append(read)
    return found


def renamed(found: Restored, *, suite: str, round: str) -> Restored:
    """The same under the names that a suite and a round give; under its own where they are those it came from."""
    old = found.task["task"]
    task = f"{suite}/{old.removeprefix(found.task['suite'] + '/')}"
    found.task.update(task=task, suite=suite)
    for rows in (found.nodes, found.verdicts, found.labels, found.scores, found.requests):
        for row in rows:
            row["task"] = task
            for name in ("tree", "episode"):
                if name in row:
                    seat = row[name].rpartition("@")[2].removeprefix(found.round)
                    row[name] = f"{task}@{round}{seat}"
    found.round = round
    return found


def _row(table: str, said: Any) -> dict[str, Any]:
    """A row of a table, what exporters read within its texts checked too."""
    row = msgspec.structs.asdict(msgspec.convert(said, _ROWS[table]))
    if table == "scores" and row["name"] == SOURCE:
        if row["text"] is None:
            raise Refused(f"a score {SOURCE!r} has no text")
        for record in msgspec.json.decode(row["text"], type=list[Record]):
            _check(record)
    if table == "tasks":
        msgspec.json.decode(row["messages"] or "[]", type=list[_Message])
        msgspec.json.decode(row["tools"] or "[]", type=list[dict[str, Any]])
    return row


def _check(record: Record) -> None:
    """That exporters can write out what is left of a record."""
    whole = {} if record.record is msgspec.UNSET else msgspec.json.decode(record.record)
    inner = whole.get(_ADDED.get(record.format)) if isinstance(whole, dict) else None
    for value in (whole, {} if inner is None and record.format != "prm800k" else inner):
        if not isinstance(value, dict) or (value.keys() == {REFERENCE} and isinstance(value[REFERENCE], int)):
            raise Refused(f"a score {SOURCE!r} has a record that is none of {record.format[:80]}")
