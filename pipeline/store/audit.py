"""Every check of a whole store, file by file first: what is damaged is named before anything is read across files."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from typing import NamedTuple

from pipeline.errors import BadTable, BranchpointError
from pipeline.store.checks import CHECKS, Finding, any_rows, as_written, faults, rows_valid, unsealed
from pipeline.store.layout import Place, by_shard, place_of
from pipeline.store.query import database_fault
from pipeline.store.relations import RELATIONS
from pipeline.store.store import Store
from schemas import TABLES


class Audited(NamedTuple):
    """A check of a table in one suite and round. detail: what was looked at, or what is wrong and where."""

    table: str
    suite: str
    round: str
    check: str
    passed: bool
    detail: str


def audit(store: Store, *, suite: str | None = None, round: str | None = None) -> Iterator[Audited]:
    """Check what a store holds, a table of a suite and round at a time.

    First each file by itself: every byte as it was written, of a schema this version reads, its rows valid. Checks
    across files follow where no file is damaged, and the ledger of requests. The database for other clients is a fault
    where it can't be opened or reads another folder, as that of a store that was moved.
    """
    sound: list[tuple[str, str, str, list[Place]]] = []
    damaged = 0
    for table in TABLES:
        for of_suite, of_round, places in _rounds(store, table, suite, round):
            found = list(faults(store, table, places))
            damaged += len(found)
            for fault in found:
                yield Audited(table, of_suite, of_round, "file", False, fault)
            if not found:
                said = f"{len(places)} files as written{unsealed(store, table, places)}"
                yield Audited(table, of_suite, of_round, "file", True, said)
                sound.append((table, of_suite, of_round, places))
    for stamp, error in _strangers(store):
        damaged += 1
        yield Audited(stamp, "", "", "file", False, error)
    for finding in _ledger(store) if suite is None and round is None else ():
        damaged += not finding.passed
        yield Audited("ledger", "", "", "file", *finding)
    if suite is None and round is None and (fault := database_fault(store)):
        yield Audited("database", "", "", "file", False, fault)
    if damaged:
        return
    for table, of_suite, of_round, places in sound:
        for name, check in {"rows_valid": rows_valid, **CHECKS[table]}.items():
            if check not in (any_rows, as_written):
                finding = _asked(partial(check, store, table, places))
                yield Audited(table, of_suite, of_round, name, *finding)
        for name, relation in RELATIONS.get(table, {}).items():
            yield Audited(table, of_suite, of_round, name, *_over_shards(store, table, places, relation))


def _rounds(store: Store, table: str, suite: str | None, round: str | None) -> Iterator[tuple[str, str, list[Place]]]:
    places = []
    for stamp in store.files.list(table):
        try:
            places.append(place_of(stamp.name))
        except BadTable:
            continue
    chosen = (place for place in sorted(places) if place.is_of(suite=suite, round=round))
    for (of_suite, of_round), group in groupby(chosen, key=lambda place: (place.suite, place.round)):
        yield of_suite, of_round, list(group)


def _strangers(store: Store) -> Iterator[tuple[str, str]]:
    """Files that lie where no shard can be."""
    for table in TABLES:
        for stamp in store.files.list(table):
            try:
                place_of(stamp.name)
            except BadTable as error:
                yield table, str(error)


def _ledger(store: Store) -> Iterator[Finding]:
    if not (store.files.local / "ledger.sqlite").exists():
        return

    def look() -> Finding:
        with store.ledger() as ledger:
            fault = next(ledger.damage(), None)
            return Finding(fault is None, fault or f"{ledger.count()} requests as recorded")

    yield _asked(look)


def _over_shards(store: Store, table: str, places: list[Place], relation: Callable) -> Finding:
    """The first fault, or how many shards there were."""
    shards = list(by_shard(places))
    for shard in shards:
        finding = _asked(partial(relation, store, table, shard))
        if not finding.passed:
            return finding
    return Finding(True, f"{len(shards)} shards")


def _asked(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except (BranchpointError, sqlite3.DatabaseError) as error:
        return Finding(False, " ".join(str(error).split()))
