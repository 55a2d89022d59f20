"""A trained model's folder appears whole, or what stood in its place stays."""

import shutil
from pathlib import Path

import pytest

from pipeline.errors import StoreFull
from trainers import saving
from trainers.saving import new_folder, source_digest


def names(folder: Path) -> dict[str, list[str]]:
    """What stands there, by folder."""
    return {path.name: sorted(file.name for file in path.iterdir()) for path in folder.iterdir()}


def test_a_folder_takes_the_place_of_another(tmp_path: Path):
    for name in ("first", "second"):
        with new_folder(tmp_path / "policy") as part:
            (part / name).touch()
    assert names(tmp_path) == {"policy": ["second"]}


def test_a_failure_leaves_what_was_there(tmp_path: Path):
    with new_folder(tmp_path / "policy") as part:
        (part / "first").touch()
    with pytest.raises(StoreFull), new_folder(tmp_path / "policy") as part:
        (part / "no" / "second").touch()
    assert names(tmp_path) == {"policy": ["first"]}


def test_what_a_killed_process_set_aside_is_put_back(tmp_path: Path):
    for left, name in ((".policy.old", "first"), (".policy.part", "second")):
        (tmp_path / left).mkdir()
        (tmp_path / left / name).touch()
    with pytest.raises(StoreFull), new_folder(tmp_path / "policy") as part:
        (part / "no" / "third").touch()
    assert names(tmp_path) == {"policy": ["first"]}


def test_the_digest_is_of_every_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    digests = [source_digest()]
    for package in saving.PACKAGES:
        shutil.copytree(Path(saving.__file__).parents[1] / package, tmp_path / package)
    monkeypatch.setattr(saving, "__file__", str(tmp_path / "trainers" / "saving.py"))
    for line in ("", "# more"):
        with (tmp_path / "schemas" / "tasks.py").open("a") as file:
            file.write(line)
        digests.append(source_digest.__wrapped__())
    assert digests[0] == digests[1] != digests[2]
