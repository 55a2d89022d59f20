"""A released round as others open it: `datasets`, polars and DuckDB, from the folder and from a Hub on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import polars as pl
import pytest
from fakes.hub import TOKEN, FakeHub
from huggingface_hub import constants, utils
from scripted_round import Pupil, run, scripted

from pipeline.publish.folder import Folder, local_release
from pipeline.publish.hub import Hub
from pipeline.stages.release import release_folder, write_release

REPO = "me/sums"
READ = """
import json, os, sys
import datasets, duckdb, polars as pl
from huggingface_hub import HfFileSystem, snapshot_download

datasets.disable_progress_bars()
place, revision, configs = sys.argv[1], sys.argv[2] or None, json.loads(sys.argv[3])
counts = {}
for config, splits in configs.items():
    for split in splits:
        rows = datasets.load_dataset(place, config, split=split, revision=revision)
        counts[f"{config}/{split}"] = len(rows)
    whole = datasets.load_dataset(place, config, revision=revision)
    assert {name: len(rows) for name, rows in whole.items()} == {split: counts[f"{config}/{split}"] for split in splits}
    streamed = datasets.load_dataset(place, config, split=splits[0], revision=revision, streaming=True)
    assert sum(1 for _ in streamed) == counts[f"{config}/{splits[0]}"]
if revision:
    files = HfFileSystem(token=os.environ["HF_TOKEN"])
    for config, splits in configs.items():
        for split in splits:
            (path,) = files.glob(f"datasets/{place}@{revision}/{config}/{split}-*.parquet")
            with files.open(path) as opened:
                assert pl.read_parquet(opened).height == counts[f"{config}/{split}"]
    folder = snapshot_download(place, repo_type="dataset", revision=revision)
    for config, splits in configs.items():
        for split in splits:
            found = duckdb.sql(f"select count(*) from '{folder}/{config}/{split}-*.parquet'").fetchall()
            assert found == [(counts[f"{config}/{split}"],)]
print(json.dumps(counts))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with scripted(tmp_path_factory.mktemp("round"), Pupil()) as work:
        run(work)
        write_release(work)
        yield Folder(release_folder(work))


def splits_of(folder: Folder) -> dict[str, dict[str, int]]:
    return {name: config["splits"] for name, config in folder.manifest["configs"].items()}


def read_elsewhere(place: str, revision: str, folder: Folder, home: Path, **environment: str) -> dict[str, int]:
    """Rows by config and split, as a process with an empty cache reads them."""
    configs = {name: list(splits) for name, splits in splits_of(folder).items()}
    alone = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    shown = subprocess.run(
        [sys.executable, "-c", READ, place, revision, json.dumps(configs)],
        env={**alone, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr[-3000:]
    return json.loads(shown.stdout)


def wanted(folder: Folder) -> dict[str, int]:
    return {f"{name}/{split}": rows for name, splits in splits_of(folder).items() for split, rows in splits.items()}


def test_from_the_folder(folder, tmp_path):
    assert len(splits_of(folder)) >= 9
    assert read_elsewhere(str(folder.path), "", folder, tmp_path, HF_HUB_OFFLINE="1") == wanted(folder)
    for name, splits in splits_of(folder).items():
        for split, rows in splits.items():
            files = f"{folder.path}/{name}/{split}-*.parquet"
            assert pl.read_parquet(files).height == rows
            assert duckdb.sql(f"select count(*) from '{files}'").fetchall() == [(rows,)]


@pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")
def test_from_the_hub(folder, tmp_path, monkeypatch):
    """A private repository, by its tag."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    utils.disable_progress_bars()
    with FakeHub() as fake:
        hub, local = Hub(fake.endpoint, TOKEN, pauses=()), local_release(folder)
        tag = hub.upload(hub.plan(REPO, local), local).tag
        found = read_elsewhere(REPO, tag, folder, tmp_path / "home", HF_ENDPOINT=fake.endpoint, HF_TOKEN=TOKEN)
        assert found == wanted(folder)
        shutil.rmtree(tmp_path / "home")
        hub.fetch(REPO, tmp_path / "fetched")
    assert Folder(tmp_path / "fetched").listed() == folder.listed()
