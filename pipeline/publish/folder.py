"""The folder of a release: the one file that opens its Parquet and its manifest. Knows no store, no card."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import BadConfig, BadTable
from schemas import TABLES

MANIFEST = "manifest.json"
CARD = "README.md"
NOT_OURS = (".gitattributes", ".gitignore", ".cache", ".git", ".huggingface.yaml")
"""What the Hub and its clients leave in a folder."""
BATCH_ROWS = 30_000
_FILE = re.compile(r"(?P<split>\w+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.parquet")


@dataclass(frozen=True)
class Folder:
    """A release as it lies on a disk."""

    path: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What the release says of itself.

        Raises:
            BadConfig: no release lies there.
        """
        found = _manifest(self.path)
        if found is None:
            raise BadConfig(f"{self.path} holds no release", remedy="run `branchpoint release`, or correct the path")
        return found

    @property
    def configs(self) -> list[str]:
        """Folders with Parquet in them, in the order of the tables."""
        found = {path.parent.name for path in self.path.glob("*/*.parquet")}
        return [name for name in TABLES if name in found] + sorted(found - TABLES.keys())

    def files(self, config: str, split: str = "*") -> list[Path]:
        """The Parquet files of a config, in order."""
        return sorted((self.path / config).glob(f"{split}-*.parquet"))

    def splits(self, config: str) -> dict[str, list[Path]]:
        """The files of a config by split.

        Raises:
            BadTable: a file's name does not say which of how many it is, or one of these is missing.
        """
        found: dict[str, list[Path]] = {}
        for path in sorted((self.path / config).glob("*.parquet")):
            parts = _FILE.fullmatch(path.name)
            if parts is None:
                raise BadTable(f"{config}/{path.name} is no file of a release", remedy="remove it, or release anew")
            found.setdefault(parts["split"], []).append(path)
        for split, paths in found.items():
            wanted = [f"{split}-{number:05d}-of-{len(paths):05d}.parquet" for number in range(len(paths))]
            if [path.name for path in paths] != wanted:
                raise BadTable(f"{config}: files of split {split} are missing or too many", remedy="release it anew")
        return found

    def batches(
        self,
        config: str,
        split: str,
        *,
        columns: Sequence[str] | None = None,
        task: str | None = None,
        rows: int = BATCH_ROWS,
    ) -> Iterator[pa.Table]:
        """Rows of a split in their order, whole tasks in each batch.

        Args:
            task: of this task alone; row groups that cannot have it are not read.
            rows: about how many a batch has.

        Raises:
            BadTable: a file is damaged.
        """
        for path in self.files(config, split):
            try:
                with pq.ParquetFile(path) as file:
                    for groups in _groups(file, task, rows):
                        read = file.read_row_groups(groups, None if columns is None else list(columns))
                        yield read if task is None else read.filter(pc.equal(read["task"], task))
            except (pa.ArrowException, OSError) as error:
                raise BadTable(
                    f"{config}/{path.name} is damaged: {error}", remedy="release or fetch it anew"
                ) from error

    def read(self, config: str, *, columns: Sequence[str] | None = None, task: str | None = None) -> pl.DataFrame:
        """Rows of all splits, whole in memory."""
        found = [
            pl.from_arrow(some)
            for split in self.splits(config)
            for some in self.batches(config, split, columns=columns, task=task)
        ]
        types = {name: column.dtype for name, column in TABLES[config].columns().items()}
        kept = columns or list(types)
        return pl.concat([pl.DataFrame(schema={name: types[name] for name in kept}), *found])

    def mine(self) -> Iterator[Path]:
        """Every file but the manifest and what clients of the Hub leave."""
        for path in self.path.rglob("*"):
            name = path.relative_to(self.path)
            if name.parts[0] not in NOT_OURS and name.as_posix() != MANIFEST and path.is_file():
                yield path

    def drop_others(self) -> None:
        """Remove what others keep in a repository beside a release, outside the folders of tables."""
        for path in list(self.mine()):
            name = path.relative_to(self.path)
            if name.as_posix() not in self.manifest["files"] and name.parts[0] not in TABLES:
                path.unlink()

    def listed(self) -> dict[str, dict[str, Any]]:
        """Size and SHA-256 of every file, by its path inside the folder."""
        return {
            path.relative_to(self.path).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for path in sorted(self.mine())
        }


@dataclass(frozen=True, slots=True)
class Local:
    """A folder to be published.

    kind:    of repository: dataset or model.
    files:   bytes and SHA-256 by path; the manifest is among them.
    version: of its form, the first part of a tag.
    title:   what it is, for print and for the commit.
    counts:  rows by config, for the commit.
    """

    folder: Path
    kind: str
    files: Mapping[str, Mapping[str, Any]]
    version: str
    title: str
    counts: Mapping[str, int] = field(default_factory=dict)


def local_files(folder: Folder) -> dict[str, dict[str, Any]]:
    """Every file of the manifest, and the manifest."""
    path = folder.path / MANIFEST
    return {**folder.manifest["files"], MANIFEST: {"bytes": path.stat().st_size, "sha256": sha256_of(path)}}


def local_release(folder: Folder) -> Local:
    """A release as what is to be published."""
    manifest = folder.manifest
    return Local(
        folder.path,
        "dataset",
        local_files(folder),
        manifest["inputs"]["version"],
        f"{manifest['suite']} {manifest['round']}",
        {name: config["rows"] for name, config in manifest["configs"].items()},
    )


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def manifest_in(folder: Path) -> dict[str, Any] | None:
    """The manifest of the release that lies in a folder. None: the folder is empty or not there.

    Raises:
        BadConfig: the folder holds something else, which is not ours to replace.
    """
    manifest = _manifest(folder)
    if manifest is None and folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise BadConfig(
            f"{folder} is there and is no release", remedy="move it away, or choose another place for releases"
        )
    return manifest


def _manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest in a folder. None: there is none of ours."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    ours = isinstance(manifest, dict) and {"inputs", "configs", "files"} <= manifest.keys()
    return manifest if ours else None


def _groups(file: pq.ParquetFile, task: str | None, rows: int) -> Iterator[list[int]]:
    """Row groups to read together."""
    at, schema = file.schema_arrow.get_field_index("task"), file.metadata
    some, count = [], 0
    for number in range(file.num_row_groups):
        group = schema.row_group(number)
        bounds = group.column(at).statistics if task is not None else None
        if bounds is not None and bounds.has_min_max and not bounds.min <= task <= bounds.max:
            continue
        some.append(number)
        count += group.num_rows
        if count >= rows:
            yield some
            some, count = [], 0
    if some:
        yield some
