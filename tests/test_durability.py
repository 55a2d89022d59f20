"""A round killed again and again ends as one that was left alone, and pays for no answer twice."""

from __future__ import annotations

import random
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest
from killed_round import STORE, end, sent, start

from pipeline.store.audit import audit
from pipeline.store.store import Store

KILLS, PER_ROUND, HANDS = 100, 3, 2
"""Kills in all, about how many in the time one round takes, and rounds at once."""


class Undisturbed(NamedTuple):
    files: dict[str, bytes]
    ledger: list[tuple]
    sent: list[str]
    seconds: float


class Killed(NamedTuple):
    """A round that was killed and ended all the same.

    sent: by run; after all but the last a kill came.
    made: files that each kill found made.
    """

    folder: Path
    sent: list[list[str]]
    made: list[int]


def parquet(folder: Path) -> dict[str, bytes]:
    root = folder / STORE
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.parquet"))}


def recorded(folder: Path) -> list[tuple]:
    with closing(sqlite3.connect(folder / STORE / "ledger.sqlite")) as db:
        return db.execute("select * from completions order by key").fetchall()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    process, begun = start(folder), time.monotonic()
    assert end(process, within_s=None) == 0
    return Undisturbed(parquet(folder), recorded(folder), sent(folder), time.monotonic() - begun)


def rounds(folder: Path, *, kills: int, mean_s: float, seed: int) -> Iterator[Killed]:
    """Rounds one after the other until so many kills were made, at instants without memory."""
    draw = random.Random(seed)
    for number in count():
        if kills <= 0:
            return
        here, told, runs, reached = folder / f"{seed}-{number}", 0, [], []
        here.mkdir()
        while True:
            code = end(start(here), within_s=draw.expovariate(1 / mean_s) if kills else None)
            keys = sent(here)
            runs.append(keys[told:])
            told = len(keys)
            if code == 0:
                break
            assert code == -9
            kills -= 1
            reached.append(len(parquet(here)))
        yield Killed(here, runs, reached)


@pytest.fixture(scope="module")
def killed(undisturbed: Undisturbed, tmp_path_factory: pytest.TempPathFactory) -> list[Killed]:
    folder, mean_s = tmp_path_factory.mktemp("killed"), undisturbed.seconds / PER_ROUND

    def some(seed: int) -> list[Killed]:
        return list(rounds(folder, kills=KILLS // HANDS, mean_s=mean_s, seed=seed))

    with ThreadPoolExecutor(HANDS) as hands:
        return [one for found in hands.map(some, range(HANDS)) for one in found]


def test_a_hundred_kills_leave_the_bytes_of_a_round_left_alone(undisturbed: Undisturbed, killed: list[Killed]):
    assert sum(len(one.sent) - 1 for one in killed) == KILLS
    for one in killed:
        files = parquet(one.folder)
        assert list(files) == list(undisturbed.files)
        assert [name for name, data in files.items() if data != undisturbed.files[name]] == []
        assert recorded(one.folder) == undisturbed.ledger


def test_nothing_is_sent_twice_but_what_a_kill_met_in_flight(undisturbed: Undisturbed, killed: list[Killed]):
    assert len(set(undisturbed.sent)) == len(undisturbed.sent) == len(undisturbed.ledger)
    for one in killed:
        assert {key for run in one.sent for key in run} == set(undisturbed.sent)
        in_flight = Counter(run[-1] for run in one.sent[:-1] if run)
        for key, times in Counter(key for run in one.sent for key in run).items():
            assert times <= 1 + in_flight[key]


def test_kills_come_in_every_part_of_the_work(undisturbed: Undisturbed, killed: list[Killed]):
    """Lest all of them met a process that had made nothing yet, or one that had made everything."""
    quarters = Counter(min(3, 4 * made // len(undisturbed.files)) for one in killed for made in one.made)
    assert all(quarters[part] >= 5 for part in range(4)), quarters
    assert any(sum(map(len, one.sent)) > len(undisturbed.sent) for one in killed), "no request was in flight"


def test_what_a_killed_write_leaves_is_read_by_nobody(killed: list[Killed]):
    left = [path for one in killed for path in one.folder.rglob("*.part")]
    for one in killed:
        store = Store(one.folder / STORE)
        assert [found for found in audit(store) if not found.passed] == []
        assert len(store.catalogue()) == len(parquet(one.folder))
    assert left
