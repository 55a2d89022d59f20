"""Finds a training row by its name, and what else the store holds of its task, without reading the rest.

A row's name begins with its tree, such as `chain_sum/3x2/train/000000@r0`: task, `@`, round. The shards of a task have
one name in every table.
"""

from __future__ import annotations

import difflib
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import polars as pl

from pipeline.cli_options import check_choice
from pipeline.errors import BadConfig
from pipeline.lineage.datasets import DATASETS, Row
from pipeline.store.layout import EVERY_ROUND, Place
from pipeline.store.store import Store

_NAME = re.compile(r"(?P<task>[^@]+)@(?P<round>[^/]+)/.+")
_NEIGHBOURS = 50


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
    for places in _likely(store, dataset, name):
        for place in places:
            rows = _named(store, dataset, place, name)
            if rows:
                return [Found(place, row) for row in rows]
    raise BadConfig(f"{dataset} has no row {name!r}", remedy=_remedy(store, dataset, name))


def _named(store: Store, dataset: str, place: Place, name: str) -> list[Row]:
    parts = _NAME.fullmatch(name)
    if parts is None:
        return []
    return list(read_task(store, dataset, [place], parts["task"]).filter(pl.col("row") == name).iter_rows(named=True))


def _likely(store: Store, dataset: str, name: str) -> Iterator[list[Place]]:
    """Shards in which a row may lie, the likely ones first; none for what cannot be a row's name."""
    parts = _NAME.fullmatch(name)
    if parts is None:
        return
    places = [
        place
        for place in store.places(dataset, round=parts["round"])
        if parts["task"].startswith(f"{place.suite}/") or "/" not in parts["task"]
    ]
    of_task = _shard(store, {place.suite for place in places}, parts["task"])
    yield [place for place in places if (place.suite, place.shard) == of_task]
    yield [place for place in places if (place.suite, place.shard) != of_task]


def _shard(store: Store, suites: set[str], task: str) -> tuple[str, str] | None:
    """Suite and shard of a task, by halving: a suite's tasks lie in the order of their names within a split."""
    for suite in sorted(suites):
        by_split: dict[str, list[Place]] = {}
        for place in store.places("tasks", suite=suite, round=EVERY_ROUND):
            by_split.setdefault(place.shard.rsplit("-", 1)[0], []).append(place)
        for places in by_split.values():
            shards = sorted(places, key=lambda place: (len(place.shard), place.shard))
            first = bisect_left(shards, task, key=lambda place: _last_task(store, place))
            if first < len(shards) and task in store.read("tasks", [shards[first]], columns=["task"])["task"]:
                return suite, shards[first].shard
    return None


def _last_task(store: Store, place: Place) -> str:
    return store.read("tasks", [place], columns=["task"])["task"].max() or ""


def _remedy(store: Store, dataset: str, name: str) -> str:
    """The closest row, or what to do where there are none."""
    known = store.read(dataset, store.places(dataset), columns=["row"])["row"].unique().sort()
    if known.is_empty():
        return f"the store has no {dataset}; `branchpoint tables` lists what there is"
    at = bisect_left(known, name)
    near = known[max(0, at - _NEIGHBOURS) : at + _NEIGHBOURS].to_list()
    nearest = difflib.get_close_matches(name, near, n=1, cutoff=0)[0]
    return f"did you mean {nearest!r}? `branchpoint sql \"select row from {dataset}\"` lists them"


def read_task(store: Store, table: str, places: Sequence[Place], task: str) -> pl.DataFrame:
    """The rows of one task in some shards."""
    return store.read(table, list(places)).filter(pl.col("task") == task)


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
            rows = read_task(store, table, [place], task)
            rows = rows.filter(pl.col("tree") == tree) if "tree" in rows.columns else rows
            if rows.height:
                inputs = store.meta(table, place)["inputs"]
                found += [Tagged(place, row, inputs) for row in rows.iter_rows(named=True)]
    return found
