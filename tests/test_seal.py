"""A byte flipped or a file cut short anywhere in a store is named, and nothing wrong is read instead."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from scripted_round import Pupil, run, scripted

from pipeline import cli
from pipeline.errors import BadTable, StoreFull
from pipeline.generation.engine import Completion, Request, Sampling, make_request
from pipeline.stages.rollouts import RolloutConfig, write_rollouts
from pipeline.stages.work import Work
from pipeline.store.catalogue import FILE, Catalogue
from pipeline.store.files import files_at
from pipeline.store.layout import place_of
from pipeline.store.ledger import Ledger
from pipeline.store.query import write_database
from pipeline.store.store import Store

FLIPS = 40
"""About how many bytes of each file are flipped; of the smallest, all."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Work]:
    with scripted(tmp_path_factory.mktemp("round"), Pupil()) as work:
        run(work)
        write_database(work.store)
        yield work


@pytest.fixture(scope="module")
def store(made: Work) -> Store:
    """Its files are damaged by `instead` alone, which mends them."""
    return Store(made.settings.store)


def parquet(store: Store) -> list[Path]:
    return sorted(store.root.glob("*/*/*/*/*.parquet"))


def name_of(store: Store, path: Path) -> str:
    return path.relative_to(store.root).as_posix()


@contextmanager
def instead(path: Path, data: bytes, *, unnoticed: bool = False) -> Iterator[None]:
    """Other bytes in a file. unnoticed: its time of change stays."""
    whole, seen = path.read_bytes(), path.stat()
    path.write_bytes(data)
    if unnoticed:
        os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    try:
        yield
    finally:
        path.write_bytes(whole)
        os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def flipped(whole: bytes, at: int, mask: int) -> bytes:
    return bytes([*whole[:at], whole[at] ^ mask, *whole[at + 1 :]])


def spoiled(whole: bytes, seed: int) -> Iterator[bytes]:
    """A file with one bit flipped, or all bits of a byte; and cut short."""
    draw = random.Random(seed)
    for at in range(draw.randrange(max(1, len(whole) // FLIPS)), len(whole), max(1, len(whole) // FLIPS)):
        yield flipped(whole, at, draw.choice((1 << draw.randrange(8), 0xFF)))
    for cut in (0, 1, 4, 8, 100, len(whole) // 2, len(whole) - 100, len(whole) - 8, len(whole) - 4, len(whole) - 1):
        yield whole[:cut]


class TestParquet:
    def test_every_file_tells_any_damage(self, store: Store):
        for number, path in enumerate(parquet(store)):
            name = name_of(store, path)
            for data in spoiled(path.read_bytes(), number):
                with instead(path, data), pytest.raises(BadTable, match=path.name):
                    store.entry(name.split("/")[0], place_of(name))

    def test_every_byte_of_one_file(self, store: Store):
        path = min(parquet(store), key=lambda path: path.stat().st_size)
        whole, stamp = path.read_bytes(), store.files.stat(name_of(store, path))
        for at in range(len(whole)):
            with instead(path, flipped(whole, at, 1 << at % 8), unnoticed=True):
                assert store.files.stat(stamp.name) == stamp
                with pytest.raises(BadTable, match=path.name):
                    store.entries.verify(stamp)

    def test_sound_again_once_mended(self, store: Store):
        assert len(store.catalogue()) == len(parquet(store))


def answers(capsys: pytest.CaptureFixture, *command: str) -> tuple[int, str, str]:
    code = cli.main(command)
    return code, *capsys.readouterr()


class TestCommands:
    def test_name_the_file(self, made: Work, store: Store, capsys: pytest.CaptureFixture):
        tree = store.read("nodes", store.places("nodes"), columns=["tree"])["tree"][0]
        where = ("--store", str(store.root))
        for number, path in enumerate(parquet(store)):
            table, whole = name_of(store, path).split("/")[0], path.read_bytes()
            data = whole[: len(whole) // 2] if number % 2 else flipped(whole, len(whole) // 3, 4)
            with instead(path, data):
                code, said, _ = answers(capsys, "check", *where)
                wrong = [line for line in said.splitlines() if line.startswith("FAILED")]
                assert (code, len(wrong)) == (1, 1)
                assert name_of(store, path) in wrong[0]
                for command in (("tables",), ("sql", f"select * from {table}"), ("show", tree), ("path", tree, "0")):
                    code, said, error = answers(capsys, *command, *where)
                    assert (code, said, error.count("\n")) == (2, "", 1), command
                    assert name_of(store, path) in error

    def test_check_names_what_looks_untouched(self, store: Store, capsys: pytest.CaptureFixture):
        where = ("--store", str(store.root))
        assert answers(capsys, "check", *where)[0] == 0
        for path in parquet(store)[::5]:
            whole = path.read_bytes()
            with instead(path, flipped(whole, len(whole) // 2, 1), unnoticed=True):
                code, said, _ = answers(capsys, "check", *where)
                assert code == 1
                assert name_of(store, path) in said

    def test_a_stage_does_not_go_on_from_damage(self, made: Work, store: Store):
        for table in ("tasks", "nodes", "requests"):
            path = made.place("rollouts", "train-000").path(store.root, table)
            path = next(store.root.rglob("tasks/**/train-000.parquet")) if table == "tasks" else path
            with instead(path, path.read_bytes()[:-1]), pytest.raises(BadTable, match=table):
                write_rollouts(made, RolloutConfig(group=4))

    def test_the_database_file_is_derived(self, store: Store, capsys: pytest.CaptureFixture):
        path, where = store.root / "branchpoint.duckdb", ("--store", str(store.root))
        sound = answers(capsys, "sql", "select count(*) from nodes", *where)
        for data in (b"", path.read_bytes()[:1000], flipped(path.read_bytes(), 5000, 255)):
            with instead(path, data):
                assert answers(capsys, "sql", "select count(*) from nodes", *where) == sound
                write_database(store)
                assert path.read_bytes() != data


class TestLedger:
    def test_a_wrong_answer_is_never_given(self, made: Work, store: Store, tmp_path: Path):
        source = store.root / "ledger.sqlite"
        assert not source.with_name("ledger.sqlite-wal").exists()
        whole, path = source.read_bytes(), tmp_path / "ledger.sqlite"
        with Ledger(source) as ledger:
            keys = [key for (key,) in ledger._db.execute("select key from completions order by key")]
            true = {key: shown(entry) for key, entry in ledger.get(keys).items()}
        draw, refused, wrong = random.Random(5), [], []
        for at in range(0, len(whole), 29):
            for left in tmp_path.iterdir():
                left.unlink()
            path.write_bytes(flipped(whole, at, draw.choice((1 << draw.randrange(8), 0xFF))))
            try:
                with Ledger(path) as ledger:
                    for key in keys:
                        entry = ledger.get([key]).get(key)
                        wrong += [] if entry is None or shown(entry) == true[key] else [(at, key)]
                    ledger.put([answer()], policy="p", engine="scripted", asked_by="a/b/c")
                    list(ledger.damage())
            except (BadTable, StoreFull) as error:
                refused.append(str(error))
        assert wrong == []
        assert len(refused) > 100
        assert [told for told in refused if "ledger" not in told] == []

    def test_check_names_a_flipped_answer(self, store: Store, capsys: pytest.CaptureFixture):
        path = store.root / "ledger.sqlite"
        with Ledger(path) as ledger:
            (ids,) = ledger._db.execute("select token_ids from completions").fetchone()
        whole = path.read_bytes()
        with instead(path, flipped(whole, whole.index(ids), 1)):
            code, said, _ = answers(capsys, "check", "--store", str(store.root))
            assert code == 1
            assert "is not as it was recorded" in said


def shown(entry) -> tuple:
    made = entry.completion
    return (
        *(made.token_ids.tolist(), made.logprobs.tolist(), made.finish, made.cached, made.seconds, made.error),
        *(entry.prompt.tolist(), *entry[2:]),
    )


def answer() -> tuple[Request, Completion]:
    asked = make_request(np.array([1], np.int32), Sampling(), sample=0, fingerprint="p")
    return asked, Completion(asked.key, np.array([1], np.int32), np.zeros(1, np.float32), "stop", 0, 0.0)


def test_the_catalogue_is_a_cache(store: Store, tmp_path: Path):
    """Whatever becomes of it, what is known of the files is what they say."""
    root = Path(shutil.copytree(store.root, tmp_path / "store", copy_function=shutil.copy2))
    files = files_at(root)
    true = [entry for table in ("nodes", "credit") for entry in Catalogue(files).entries(table)]
    whole, draw = (root / FILE).read_bytes(), random.Random(6)
    spoilt = [flipped(whole, at, draw.choice((1 << draw.randrange(8), 0xFF))) for at in range(0, len(whole), 211)]
    for data in (b"", b"no database" * 100, whole[: len(whole) // 2], *spoilt):
        for left in (f"{FILE}-wal", f"{FILE}-shm"):
            (root / left).unlink(missing_ok=True)
        (root / FILE).write_bytes(data)
        found = Catalogue(files)
        assert [entry for table in ("nodes", "credit") for entry in found.entries(table)] == true
    assert Catalogue(files)._load().keys() >= {entry.name for entry in true}
