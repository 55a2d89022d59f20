"""Puts exported paths together to the trees they came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import polars as pl

from pipeline.exchange.document import SOURCE, Found, Record, Restored, as_json
from schemas import TABLES
from schemas.base import column_types

_OWN = {"verdicts": "verdicts", "step_labels": "labels", "scores": "scores", "requests": "requests"}


class Restoration(NamedTuple):
    """What paths of one task give.

    paths:  that stand.
    rows:   by table, nodes in the order of their numbers, which they keep where every number below the last is there;
            else they are numbered anew in their order.
    faults: file, line and reason of each path that does not fit those before it, or breaks a rule of a table.
    """

    paths: list[Restored]
    rows: dict[str, list[dict[str, Any]]]
    faults: list[tuple[str, int, str]]


def restore(found: Sequence[Found], *, asked: dict[str, str]) -> Restoration:
    """Put the trees of one task together.

    Args:
        found: paths of one task.
        asked: the task of each request so far; takes those of the paths that stand.
    """
    forest = _put_together(found, asked)
    rows = forest.rows()
    if forest.repeats or any(_broken(table, of) for table, of in rows.items()):
        forest = _put_together(found, asked, _breaks)
        rows = forest.rows()
    asked.update((row["request"], path.task["task"]) for path in forest.paths for row in path.requests)
    return Restoration(forest.paths, rows, forest.faults)


@dataclass(slots=True)
class _Forest:
    """Paths put together.

    trees:   nodes by tree, then by number.
    beside:  rows of other tables, by table, then by key.
    repeats: whether a path has two rows of one key.
    """

    paths: list[Restored] = field(default_factory=list)
    trees: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    beside: dict[str, dict[tuple, dict[str, Any]]] = field(default_factory=lambda: {table: {} for table in _OWN})
    faults: list[tuple[str, int, str]] = field(default_factory=list)
    repeats: bool = False

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """By table, under their new numbers."""
        nodes = [self.trees[tree][node] for tree in sorted(self.trees) for node in sorted(self.trees[tree])]
        tasks = [path.task for path in self.paths[:1]]
        rows = {"tasks": tasks, "nodes": nodes, **{table: [*of.values()] for table, of in self.beside.items()}}
        numbers = {tree: {old: new for new, old in enumerate(sorted(of))} for tree, of in self.trees.items()}
        return {table: [_numbered(row, numbers) for row in of] for table, of in rows.items()}


def _put_together(
    found: Sequence[Found], asked: Mapping[str, str], breaks: Callable[[Restored], str] | None = None
) -> _Forest:
    """The paths that fit those before them and break no rule; none is looked for where `breaks` is None: all rows
    together are checked in a fraction of the time that their paths take one by one."""
    forest = _Forest()
    for one in found:
        path = one.document
        if why := _why_not(path.nodes, forest.trees) or _unasked(path, asked) or (breaks(path) if breaks else ""):
            forest.faults.append((one.file, one.line, why))
            continue
        forest.paths.append(path)
        for row in path.nodes:
            forest.trees.setdefault(row["tree"], {}).setdefault(row["node"], row)
        for table, own in _OWN.items():
            rows, names = getattr(path, own), ("tree", "node", *TABLES[table].primary_key())
            keys = [tuple(row.get(name) for name in names) for row in rows]
            forest.repeats |= len(set(keys)) < len(keys)
            for key, row in zip(keys, rows, strict=True):
                forest.beside[table].setdefault(key, row)
    return forest


def _unasked(path: Restored, asked: Mapping[str, str]) -> str:
    """Why its requests are not its own; empty where they are."""
    own = {row["request"] for row in path.requests}
    for node in path.nodes:
        if node["request"] is not None and node["request"] not in own:
            return f"node {node['node']} is of request {node['request'][:80]!r}, which is not told"
    task = path.task["task"]
    for row in path.requests:
        if asked.get(row["request"], task) != task:
            return f"request {row['request'][:80]!r} is one of {asked[row['request']]} too"
    return ""


def _breaks(path: Restored) -> str:
    """The rule that a path's rows break; empty where none does."""
    rows = {"nodes": path.nodes, "tasks": [path.task], **{table: getattr(path, own) for table, own in _OWN.items()}}
    return next((said for table, of in rows.items() if (said := _broken(table, of))), "")


def _why_not(path: Sequence[dict[str, Any]], trees: dict[str, dict[int, dict[str, Any]]]) -> str:
    """Why the nodes are no path that goes with the trees so far; empty where they are."""
    if not path:
        return "a path without nodes"
    above: dict[str, Any] | None = None
    for node in path:
        if node["tree"] != path[0]["tree"]:
            return "a path through two trees"
        if node["parent"] != (above["node"] if above else None) or (above and node["node"] <= above["node"]):
            return f"node {node['node']} does not follow its parent"
        if node["depth"] != (above["depth"] + 1 if above else 0):
            return f"node {node['node']} has depth {node['depth']}"
        begins = node["kind"] == "prompt" and node["context"] == node["node"]
        if not begins and (above is None or node["context"] != above["context"]):
            return f"node {node['node']} is in context {node['context']}, unlike its parent"
        known = trees.get(node["tree"], {}).get(node["node"])
        if known is not None and known != node:
            return f"node {node['node']} is not what another path says"
        above = node
    return ""


def _broken(table: str, rows: Sequence[dict[str, Any]]) -> str:
    """The rule of a table that some row breaks; empty where none does."""
    if not rows:
        return ""
    types = column_types(TABLES[table])
    frame = pl.DataFrame([{name: row[name] for name in types} for row in rows], schema=types, orient="row")
    _, failures = TABLES[table].filter(frame)
    return f"rows of {table} break {', '.join(sorted(failures.counts()))}" if failures.counts() else ""


def _numbered(row: dict[str, Any], numbers: dict[str, dict[int, int]]) -> dict[str, Any]:
    """A row with the new numbers of its nodes; a copy of what is not there is none."""
    if "tree" not in row:
        return row
    new = numbers[row["tree"]]
    if row.get("name") == SOURCE:
        row = row | {"text": _records(row["text"], new)}
    return row | {
        name: new.get(row[name]) for name in ("node", "parent", "context", "copied_from") if row.get(name) is not None
    }


def _records(text: str, new: dict[int, int]) -> str:
    """Records under the new numbers of their nodes, those of nodes that are not there left out."""
    records = msgspec.json.decode(text, type=list[Record])
    there = [record for record in records if new.keys() >= set(record.nodes)]
    moved = [msgspec.structs.replace(record, nodes=[new[node] for node in record.nodes]) for record in there]
    return text if moved == records else as_json(moved)
