"""Puts exported paths together to the trees they came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from schemas import TABLES
from schemas.base import column_types

if TYPE_CHECKING:
    from pipeline.exchange.planting import Found

_OWN = {"verdicts": "verdicts", "step_labels": "labels", "scores": "scores", "requests": "requests"}


def restored_rows(found: Sequence[Found], *, faults: list[tuple[str, int, str]]) -> dict[str, list[dict[str, Any]]]:
    """Rows by table of the trees of one task.

    Nodes keep their numbers where every number below the last is there; else they are numbered anew in their order.

    Args:
        found: paths of one task.
        faults: takes file, line and reason of each path that does not fit those before it, or breaks a rule of a table.
    """
    task: dict[str, Any] | None = None
    trees: dict[str, dict[int, dict[str, Any]]] = {}
    beside: dict[str, dict[tuple, dict[str, Any]]] = {table: {} for table in _OWN}
    for one in found:
        path = one.document
        why = _why_not(path.nodes, trees) or _broken("nodes", path.nodes) or _broken("tasks", [path.task])
        why = why or next((said for table, own in _OWN.items() if (said := _broken(table, getattr(path, own)))), "")
        if why:
            faults.append((one.file, one.line, why))
            continue
        task = task or path.task
        for row in path.nodes:
            trees.setdefault(row["tree"], {}).setdefault(row["node"], row)
        for table, own in _OWN.items():
            for row in getattr(path, own):
                key = tuple(row.get(name) for name in ("tree", "node", *TABLES[table].primary_key()))
                beside[table].setdefault(key, row)
    if task is None:
        return {}
    numbers = {tree: {old: new for new, old in enumerate(sorted(nodes))} for tree, nodes in trees.items()}
    rows = {table: [_numbered(row, numbers) for row in of.values()] for table, of in beside.items()}
    nodes = [_numbered(trees[tree][node], numbers) for tree in sorted(trees) for node in sorted(trees[tree])]
    return {"tasks": [task], "nodes": nodes, **rows}


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
    return row | {
        name: new.get(row[name]) for name in ("node", "parent", "context", "copied_from") if row.get(name) is not None
    }
