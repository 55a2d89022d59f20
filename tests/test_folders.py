"""A folder appears whole, or what stood in its place stays."""

from pathlib import Path

import pytest

from pipeline.errors import StoreFull
from pipeline.store.folders import new_folder


def names(folder: Path) -> dict[str, list[str]]:
    """What stands there, by folder."""
    return {path.name: sorted(file.name for file in path.iterdir()) for path in folder.iterdir()}


def test_a_folder_takes_the_place_of_another(tmp_path: Path):
    for name in ("first", "second"):
        with new_folder(tmp_path / "made", setting="--folder") as part:
            (part / name).touch()
    assert names(tmp_path) == {"made": ["second"]}


def test_what_could_not_be_replaced_is_put_back(tmp_path: Path):
    with new_folder(tmp_path / "made", setting="--folder") as part:
        (part / "first").touch()
    with pytest.raises(StoreFull), new_folder(tmp_path / "made", setting="--folder") as part:
        part.rmdir()
    assert names(tmp_path) == {"made": ["first"]}
