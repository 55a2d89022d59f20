"""Every check of a whole store, file by file first: what is damaged is named before anything is read across files."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from typing import NamedTuple

from pipeline.errors import BadTable, BranchpointError
from pipeline.store.checks import CHECKS, Finding, any_rows, as_written, rows_valid
from pipeline.store.layout import Place, place_of
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
    across files follow where no file is damaged, and the ledger of requests.
    """
    sound: list[tuple[str, str, str, list[Place]]] = []
    damaged = 0
    for table in TABLES:
        for of_suite, of_round, places in _rounds(store, table, suite, round):
            looked = [as_written(store, table, [place]) for place in places]
            faults = [finding for finding in looked if not finding.passed]
            damaged += len(faults)
            for finding in faults:
                yield Audited(table, of_suite, of_round, "file", *finding)
            if not faults:
                yield Audited(table, of_suite, of_round, "file", *_joined(looked))
                sound.append((table, of_suite, of_round, places))
    for stamp, error in _strangers(store):
        damaged += 1
        yield Audited(stamp, "", "", "file", False, error)
    for finding in _ledger(store) if suite is None and round is None else ():
        damaged += not finding.passed
        yield Audited("ledger", "", "", "file", *finding)
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
    chosen = (place for place in sorted(places) if suite in (None, place.suite) and round in (None, place.round))
    for (of_suite, of_round), group in groupby(chosen, key=lambda place: (place.suite, place.round)):
        yield of_suite, of_round, list(group)


def _joined(looked: list[Finding]) -> Finding:
    """One finding of files that are all as they were written."""
    unsealed = sum("without seals" in finding.detail for finding in looked)
    kept = f", {unsealed} of a version without seals" if unsealed else ""
    return Finding(True, f"{len(looked)} files as written{kept}")


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
    """The first fault, or what was looked at in the last shard and how many shards there were."""
    shards = 0
    for _, some in groupby(sorted(places, key=lambda place: place.shard), key=lambda place: place.shard):
        shard = list(some)
        finding = _asked(partial(relation, store, table, shard))
        if not finding.passed:
            return finding
        shards += 1
    return Finding(True, f"{shards} shards")


def _asked(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except (BranchpointError, sqlite3.DatabaseError) as error:
        return Finding(False, " ".join(str(error).split()))
