"""Stages a release: one round of a suite as the folder of a dataset repository. The only file that writes there.

Knows no network. The same store gives the same bytes, and nothing in them tells of this machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from pipeline.errors import BadConfig, BadTable
from pipeline.publish.card import release_card
from pipeline.publish.facts import ConfigFacts, SplitFacts
from pipeline.publish.gather import Source, gather_facts
from pipeline.store.digest import content_digest
from pipeline.store.store import Store
from pipeline.store.write import as_arrow, disk_errors, group_edges, validated, write_parquet
from schemas import TABLES
from schemas.versions import version_of
from schemas.words import SPLITS

VERSION = "2"
CONFIGS = ("tasks", "nodes", "verdicts", "variants", "credit", "step_labels", "pairs", "patches", "evals")
"""Tables that are published, each a config; requests stay at home but for what the card says of them."""

MANIFEST = "manifest.json"
CARD = "README.md"
FILE_BYTES = 500 * 2**20
"""Bytes of Arrow in one Parquet file, where a task allows."""

_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_LANGUAGE = re.compile(r"[a-z]{2,3}")


@dataclass(frozen=True, slots=True)
class ReleaseReport:
    """A release as it now lies in its folder.

    rows:   by config.
    bytes:  of all its Parquet files.
    digest: of the manifest, and so of everything.
    fresh:  written now; False where it was there already, made from the same.
    """

    folder: Path
    rows: dict[str, int]
    bytes: int
    digest: str
    fresh: bool


def stage_release(
    store: Store, *, suite: str, round: str, folder: Path, licence: str, language: str = "en"
) -> ReleaseReport:
    """Write the folder of a dataset repository, or leave it where it was made from just this.

    The folder appears whole or not at all: it is written beside and renamed. An older release there is replaced.

    Args:
        store: where the round lies.
        suite: name of the suite.
        round: name of the round.
        folder: the repository's folder to be.
        licence: identifier of the Hub's list of licences.
        language: ISO 639 code of the questions and answers.

    Raises:
        BadConfig: licence or language is none, or the folder holds something else than a release.
        BadTable: the round is empty, a key occurs twice, or a row's task is not among the suite's.
        StoreFull: the disk refused; what was in the folder is still there.
    """
    for name, value, pattern in (("licence", licence, _LICENCE), ("language", language, _LANGUAGE)):
        if not pattern.fullmatch(value):
            raise BadConfig(
                f"{name} {value!r} is no identifier", remedy="write it as the Hub does, such as cc-by-4.0, en"
            )
    source = Source(store, suite, round)
    inputs = _inputs(source, licence=licence, language=language)
    manifest = _manifest_in(folder)
    if manifest is not None and manifest["inputs"] == inputs and _complete(folder, manifest):
        return _report(folder, manifest, fresh=False)
    splits = source.splits()
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    with disk_errors(folder, setting="BRANCHPOINT_RELEASE"):
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            configs = [found for table in CONFIGS if (found := _write_config(part, source, table, splits)) is not None]
            if all(config.name == "tasks" for config in configs):
                raise BadTable(f"round {round} of suite {suite} has no rows", remedy="make the round first")
            facts = gather_facts(source, configs, licence=licence, language=language)
            (part / CARD).write_text(release_card(facts), encoding="utf-8", newline="\n")
            manifest = _manifest(source, configs, inputs, files=_files(part))
            (part / MANIFEST).write_text(_as_json(manifest), encoding="utf-8", newline="\n")
            _replace(folder, part)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return _report(folder, manifest, fresh=True)


def _inputs(source: Source, *, licence: str, language: str) -> dict[str, str]:
    """All that the bytes of a release follow from; the store's part as one digest."""
    shards = [
        [table, place.stage, place.shard, entry.digest, entry.inputs]
        for table in (*CONFIGS, "requests")
        for place in source.places(table)
        if (entry := source.store.entry(table, place)) is not None
    ]
    return {
        "version": VERSION,
        "pyarrow": pa.__version__,
        "licence": licence,
        "language": language,
        "store": hashlib.sha256(json.dumps(shards, sort_keys=True).encode()).hexdigest()[:32],
    }


def _write_config(part: Path, source: Source, table: str, splits: pl.DataFrame) -> ConfigFacts | None:
    """Write the files of one table. None: it has no rows."""
    rows = validated(table, source.read(table))
    if rows.is_empty():
        return None
    split = _split_of(table, rows, splits)
    data = as_arrow(TABLES[table], rows).combine_chunks()
    written, size = [], 0
    for name in SPLITS:
        some = data.filter((split == name).to_arrow()).combine_chunks()
        if some.num_rows:
            written.append(SplitFacts(name, some.num_rows, some.nbytes))
            size += sum(_write_files(part / table, source, table, name, some))
    return ConfigFacts(table, content_digest(data), tuple(written), size)


def _split_of(table: str, rows: pl.DataFrame, splits: pl.DataFrame) -> pl.Series:
    """The split of each row: its own where the table has one, else its task's."""
    if "split" not in rows.columns:
        rows = rows.select("task").join(splits, on="task", how="left", maintain_order="left", validate="m:1")
    lost = rows.filter(~pl.col("split").is_in(SPLITS).fill_null(False))
    if lost.height:
        raise BadTable(
            f"{table}: {lost.height} rows are of no known split, the first is {lost.row(0)}",
            remedy="write the suite's tasks again, then the round; a release holds rows of the suite's tasks only",
        )
    return rows["split"]


def _write_files(folder: Path, source: Source, table: str, split: str, data: pa.Table) -> Iterator[int]:
    """Write one split, cut at tasks into files of a bounded size; yields the bytes of each."""
    edges = group_edges(data, max_bytes=FILE_BYTES, max_rows=data.num_rows)
    inputs = {"suite": source.suite, "round": source.round, "split": split}
    for number, (start, end) in enumerate(zip((0, *edges[:-1]), edges, strict=True)):
        path = folder / f"{split}-{number:05d}-of-{len(edges):05d}.parquet"
        write_parquet(path, table, data.slice(start, end - start), inputs=inputs)
        yield path.stat().st_size


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file, by its path inside the folder."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": digest}
    return files


def _manifest(
    source: Source, configs: Iterable[ConfigFacts], inputs: dict[str, str], *, files: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    return {
        "suite": source.suite,
        "round": source.round,
        "inputs": inputs,
        "configs": {
            config.name: {
                "schema_version": version_of(config.name),
                "rows": config.rows,
                "digest": config.digest,
                "splits": {split.name: split.rows for split in config.splits},
            }
            for config in configs
        },
        "files": files,
    }


def _as_json(manifest: dict[str, Any]) -> str:
    return json.dumps(manifest, indent=1) + "\n"


def _manifest_in(folder: Path) -> dict[str, Any] | None:
    """The manifest of the release that lies in a folder. None: the folder is empty or not there.

    Raises:
        BadConfig: the folder holds something else, which is not ours to replace.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        manifest = None
    if isinstance(manifest, dict) and {"inputs", "configs", "files"} <= manifest.keys():
        return manifest
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise BadConfig(
            f"{folder} is there and is no release", remedy="move it away, or choose another place for releases"
        )
    return None


def _complete(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether every file of the manifest is there in its size."""
    paths = {folder / name: stated["bytes"] for name, stated in manifest["files"].items()}
    return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())


def _replace(folder: Path, part: Path) -> None:
    """Put the new folder in the place of the old; a failure puts the old one back."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.rename(old)
    try:
        part.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _report(folder: Path, manifest: dict[str, Any], *, fresh: bool) -> ReleaseReport:
    return ReleaseReport(
        folder=folder,
        rows={name: config["rows"] for name, config in manifest["configs"].items()},
        bytes=sum(stated["bytes"] for name, stated in manifest["files"].items() if name.endswith(".parquet")),
        digest=hashlib.sha256(_as_json(manifest).encode()).hexdigest()[:32],
        fresh=fresh,
    )
