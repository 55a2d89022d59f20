"""Every check of a whole store, file by file first: what is damaged is named before anything is read across files."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from pipeline.errors import BadTable, BranchpointError
from pipeline.store.checks import CHECKS, Finding, any_rows, digests_match
from pipeline.store.layout import Place
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

    First each file by itself: is it there whole, of a schema this version reads, with the rows it says it was
    written with. Checks across files follow where all of a table's files are sound.
    """
    for table in TABLES:
        places = store.places(table, suite=suite, round=round)
        for (of_suite, of_round), group in groupby(places, key=lambda place: (place.suite, place.round)):
            found, damaged = list(group), 0
            for place in found:
                finding = _one(store, table, place)
                if not finding.passed:
                    damaged += 1
                    yield Audited(table, of_suite, of_round, "file", *finding)
            if damaged:
                continue
            yield Audited(table, of_suite, of_round, "file", True, f"{len(found)} files as written")
            for name, check in CHECKS[table].items():
                if check not in (any_rows, digests_match):
                    yield Audited(table, of_suite, of_round, name, *_across(check, store, table, found))


def _one(store: Store, table: str, place: Place) -> Finding:
    try:
        store.meta(table, place)
    except BadTable as error:
        return Finding(False, str(error))
    return digests_match(store, table, [place])


def _across(check: object, store: Store, table: str, places: Sequence[Place]) -> Finding:
    try:
        return check(store, table, places)
    except (BranchpointError, sqlite3.DatabaseError) as error:
        return Finding(False, " ".join(str(error).split()))
