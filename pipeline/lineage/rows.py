"""Finds a training row by its name, and what else the store holds of its task, without reading the rest.

A row's name begins with its tree, such as `chain_sum/3x2/train/000000@r0`: task, `@`, round. A task's shard has one
name in every table.
"""

from __future__ import annotations

import difflib
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import polars as pl

from pipeline.cli_options import check_choice
from pipeline.errors import BadConfig
from pipeline.lineage.datasets import DATASETS, Row
from pipeline.store.layout import Place
from pipeline.store.store import Store
from schemas import TABLES
from schemas.base import column_types

_NAME = re.compile(r"(?P<task>[^@]+)@(?P<round>[^/]+)/.+")
_SHARDS, _NEIGHBOURS = 8, 50
"""Shards and rows among which the closest to a misspelt name is looked for."""


class Found(NamedTuple):
    """A training row and the shard it lies in. Tables with several rows a name give several."""

    place: Place
    row: Row


def find_rows(store: Store, dataset: str, name: str) -> list[Found]:
    """The rows of a name.

    Raises:
        BadConfig: there is no such table of training rows, or no such row; names the closest.
    """
    check_choice("dataset", dataset, DATASETS)
    found = list(_named(store, dataset, name))
    if not found:
        raise BadConfig(f"{dataset} has no row {name!r}", remedy=_remedy(store, dataset, name))
    return found


def _named(store: Store, dataset: str, name: str) -> Iterator[Found]:
    parts = _NAME.fullmatch(name)
    if parts is None:
        return
    for entry in store.catalogue(dataset, round=parts["round"]):
        if entry.rows and entry.first_task <= parts["task"] <= entry.last_task:
            rows = read_task(store, dataset, entry.place, parts["task"]).filter(pl.col("row") == name)
            yield from (Found(entry.place, row) for row in rows.iter_rows(named=True))


def _remedy(store: Store, dataset: str, name: str) -> str:
    """The closest row, looked for where it would lie; or what to do where there are none."""
    entries = sorted((entry for entry in store.catalogue(dataset) if entry.rows), key=lambda entry: entry.last_task)
    if not entries:
        return f"the store has no {dataset}; `branchpoint tables` lists what there is"
    task, _, rest = name.partition("@")
    at = bisect_left(entries, task, key=lambda entry: entry.last_task)
    around = entries[max(0, at - _SHARDS) : at + _SHARDS]
    around.sort(
        key=lambda entry: (
            entry.first_task > task or entry.last_task < task,
            not rest.startswith(f"{entry.place.round}/"),
        )
    )
    known = store.read(dataset, [entry.place for entry in around[:_SHARDS]], columns=["row"])["row"].unique().sort()
    at = bisect_left(known, name)
    near = known[max(0, at - _NEIGHBOURS) : at + _NEIGHBOURS].to_list()
    nearest = difflib.get_close_matches(name, near, n=1, cutoff=0)[0]
    return f'did you mean {nearest!r}? `branchpoint sql "select row from {dataset}"` lists them'


def read_task(store: Store, table: str, place: Place, task: str) -> pl.DataFrame:
    """The rows of one task in a shard; reads no further than to where they end."""
    found = [pl.DataFrame(schema=column_types(TABLES[table]))]
    for rows in store.batches(table, [place], rows=1):
        if rows["task"][0].as_py() > task:
            break
        found.append(pl.from_arrow(rows).filter(pl.col("task") == task))
    return pl.concat(found)


@dataclass(frozen=True, slots=True)
class Tagged:
    """A row of a table, and what its file says it was made from."""

    place: Place
    row: dict[str, Any]
    inputs: dict[str, str]


def rows_about(store: Store, table: str, at: Place, task: str, *, tree: str) -> list[Tagged]:
    """What a table holds of a tree, in the shards of the name and round of `at`; each with its file's inputs."""
    found = []
    for place in store.places(table, suite=at.suite, round=at.round):
        if place.shard == at.shard:
            rows = read_task(store, table, place, task)
            rows = rows.filter(pl.col("tree") == tree) if "tree" in rows.columns else rows
            if rows.height:
                inputs = store.entry(table, place).inputs
                found += [Tagged(place, row, inputs) for row in rows.iter_rows(named=True)]
    return found
