"""The audit of a store names what is damaged, and never breaks on it."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from scripted_round import Pupil, run, scripted

from pipeline import cli
from pipeline.stages.work import Work
from pipeline.store.audit import audit
from pipeline.store.query import write_database
from pipeline.store.store import Store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    with scripted(tmp_path_factory.mktemp("round"), Pupil()) as work:
        run(work)
        yield work


@pytest.fixture
def store(made: Work, tmp_path: Path) -> Store:
    """A copy of a whole round's store, to be spoiled."""
    return Store(Path(shutil.copytree(made.store.root, tmp_path / "store")))


def failed(store: Store) -> list[str]:
    return [found.detail for found in audit(store) if not found.passed]


def test_a_sound_store(store: Store):
    found = list(audit(store))
    assert all(one.passed for one in found), failed(store)
    assert {one.check for one in found} >= {"file", "keys_unique", "token_exact", "parents_present", "splits_apart"}
    assert list(audit(store, suite="other")) == []


def test_a_truncated_file_is_named(store: Store):
    for path in sorted(store.root.rglob("*.parquet"))[::3]:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) * 2 // 3])
        (told,) = failed(store)
        assert path.name in told
        path.write_bytes(whole)


def test_a_flipped_byte_is_named_or_changes_no_row(store: Store):
    draw, paths, named = random.Random(3), sorted(store.root.rglob("*.parquet")), 0
    for path in draw.sample(paths, 8):
        whole, rows = path.read_bytes(), pq.read_table(path, partitioning=None)
        for _ in range(6):
            at = draw.randrange(len(whole))
            path.write_bytes(bytes([*whole[:at], whole[at] ^ (1 << draw.randrange(8)), *whole[at + 1 :]]))
            told = failed(store)
            assert any(path.name in one for one in told) or pq.read_table(path, partitioning=None).equals(rows)
            named += bool(told)
        path.write_bytes(whole)
    assert named >= 16


def test_a_damaged_ledger_is_a_finding(store: Store):
    for name in ("ledger.sqlite-wal", "ledger.sqlite-shm"):
        (store.root / name).unlink(missing_ok=True)
    (store.root / "ledger.sqlite").write_bytes(b"no database" * 100)
    told = failed(store)
    assert len(told) == 1
    assert "ledger.sqlite" in told[0]


def test_the_command(store: Store, capsys: pytest.CaptureFixture):
    assert cli.main(["check", "--store", str(store.root)]) == 0
    assert "token_exact: " in capsys.readouterr().out
    path = next(store.root.rglob("pairs/**/*.parquet"))
    path.write_bytes(path.read_bytes()[:100])
    assert cli.main(["check", "--store", str(store.root)]) == 1
    said = capsys.readouterr().out
    assert next(line for line in said.splitlines() if line.startswith("FAILED")).count(path.name) == 1
    assert cli.main(["check", "--json", "--suite", "none", "--store", str(store.root)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_leads_nowhere_breaks_nothing(store: Store):
    folder = next(store.root.glob("nodes/*/*/*"))
    (folder / "lost.parquet").symlink_to("nothing.parquet")
    assert any("lost.parquet" in one for one in failed(store))
    (folder / "lost.parquet").unlink()
    (folder / "round").symlink_to(folder)
    assert all("is not where a shard can be" in one for one in failed(store))
    assert cli.main(["tables", "--store", str(store.root)]) == 2


def test_a_store_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "empty", f"file://{tmp_path}/nowhere"):
        assert cli.main(["check", "--store", str(root)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_a_database_of_another_folder_or_damaged_is_a_finding(store: Store, tmp_path: Path):
    path = write_database(store)
    assert failed(store) == []
    moved = Store(Path(shutil.copytree(store.root, tmp_path / "moved")))
    (told,) = failed(moved)
    assert "moved/branchpoint.duckdb reads" in told
    path.write_bytes(path.read_bytes()[:5000])
    (told,) = failed(store)
    assert "branchpoint.duckdb is damaged" in told
