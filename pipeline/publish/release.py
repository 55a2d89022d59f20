"""Stages a release: one round of a suite as the folder of a dataset repository.

Knows no network. The same store gives the same bytes, and nothing in them tells of this machine. Memory does not grow
with the round.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import BadConfig, BadTable
from pipeline.publish.account import gather_account
from pipeline.publish.card import release_card
from pipeline.publish.facts import AccountFacts, ConfigFacts, SplitFacts
from pipeline.publish.folder import CARD, MANIFEST, Folder, manifest_in
from pipeline.publish.gather import gather_facts
from pipeline.publish.licences import check_licence
from pipeline.publish.source import KEEP, Source, Withheld, cleared
from pipeline.store.digest import RowDigest
from pipeline.store.folders import new_folder
from pipeline.store.store import Store
from pipeline.store.write import ParquetPart, row_bytes
from schemas import TABLES
from schemas.base import arrow_schema
from schemas.versions import version_of
from schemas.words import SPLITS

VERSION = "5"
KEPT_BACK = ("requests",)
"""Tables that stay at home, but for what the card says of them."""
CONFIGS = tuple(table for table in TABLES if table not in KEPT_BACK)
"""Tables that are published, each a config."""

SETTING = "BRANCHPOINT_RELEASE"
"""What says where releases lie."""

FILE_BYTES = 500 * 2**20
"""Bytes of the values in one Parquet file, where a task allows."""
GROUP_BYTES = 2 * 2**20
"""Of a row group, as in the store; an edit makes one or two of them new."""

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
    store: Store,
    *,
    suite: str,
    round: str,
    folder: Path,
    licence: str,
    language: str = "en",
    reading: Mapping[str, str | int] | None = None,
    withheld: Withheld = "drop",
) -> ReleaseReport:
    """Write the folder of a dataset repository, or leave it where it was made from just this.

    The folder appears whole or not at all: it is written beside and renamed. An older release there is replaced.

    Args:
        store: where the round lies.
        suite: name of the suite.
        round: name of the round.
        folder: the repository's folder to be.
        licence: of LICENCES.
        language: ISO 639 code of the questions and answers.
        reading: what of the suite is needed to build rows from nodes again; stands in the manifest.
        withheld: what becomes of tasks that hygiene holds to be withheld, where it was run.

    Raises:
        BadConfig: licence, language or policy is none, or the folder holds something else than a release.
        BadTable: the round is empty, a key occurs twice, a row's task is not among the suite's, or hygiene lets
            nothing leave or has not seen all tasks.
        StoreFull: the disk refused; what was in the folder is still there.
    """
    check_licence(licence)
    if not _LANGUAGE.fullmatch(language):
        raise BadConfig(f"language {language!r} is no ISO 639 code", remedy="write it as the Hub does, such as en")
    source = Source(store, suite, round)
    inputs = _inputs(source, licence=licence, language=language, reading=dict(reading or {}), withheld=withheld)
    manifest = manifest_in(folder)
    if manifest is not None and manifest["inputs"] == inputs and _complete(folder, manifest):
        return _report(folder, manifest, fresh=False)
    source.splits  # noqa: B018 - raises before anything is written
    source = cleared(source, withheld)
    with new_folder(folder, setting=SETTING) as part:
        configs = [found for table in CONFIGS if (found := _write_config(part, source, table)) is not None]
        if {config.name for config in configs} <= {"tasks", "hygiene"}:
            raise BadTable(f"round {round} of suite {suite} has no rows", remedy="make the round first")
        account = gather_account(source)
        of = {"suite": suite, "round": round, "licence": licence, "language": language}
        facts = gather_facts(Folder(part), configs, account, **of)
        (part / CARD).write_text(release_card(facts), encoding="utf-8", newline="\n")
        manifest = {
            "suite": suite,
            "round": round,
            "inputs": inputs,
            "versions": {name: metadata.version(name) for name in ("branchpoint", "pyarrow", "polars")},
            "reading": dict(reading or {}),
            "stages": [asdict(stage) for stage in account.stages],
            "hygiene": _hygiene(account),
            "configs": {config.name: _stated(config) for config in configs},
        }
        manifest = write_manifest(part, manifest)
    return _report(folder, manifest, fresh=True)


def write_manifest(folder: Path, said: Mapping[str, Any]) -> dict[str, Any]:
    """Write a manifest: what is said of the folder, then size and SHA-256 of every file in it."""
    manifest = {**said, "files": Folder(folder).listed()}
    (folder / MANIFEST).write_text(_as_json(manifest), encoding="utf-8", newline="\n")
    return manifest


def _inputs(source: Source, **options: Any) -> dict[str, Any]:
    """All that the bytes of a release follow from; the store's part as one digest."""
    shards = [
        [table, place.stage, place.shard, entry.digest, entry.inputs]
        for table in (*CONFIGS, *KEPT_BACK)
        for place in source.places(table)
        if (entry := source.store.entry(table, place)) is not None
    ]
    return {
        "version": VERSION,
        "pyarrow": pa.__version__,
        **options,
        "store": hashlib.sha256(json.dumps(shards, sort_keys=True).encode()).hexdigest()[:32],
    }


def _write_config(part: Path, source: Source, table: str) -> ConfigFacts | None:
    """Write the files of one table. None: it has no rows."""
    digest, written = RowDigest(arrow_schema(TABLES[table])), []
    for split in SPLITS:
        inputs = {"suite": source.suite, "round": source.round, "split": split}
        found = _write_split(part / table, table, split, source.batches(table, split), digest=digest, inputs=inputs)
        if found.rows:
            written.append(found)
    size = sum(path.stat().st_size for path in (part / table).glob("*.parquet"))
    return ConfigFacts(table, digest.hexdigest(), tuple(written), size) if written else None


def _write_split(
    folder: Path, table: str, split: str, batches: Iterable[pa.Table], *, digest: RowDigest, inputs: dict[str, str]
) -> SplitFacts:
    """Write one split, cut at tasks into files of a bounded size, wherever batches end."""
    files: list[Path] = []
    rows, size, room, out = 0, 0, 0, None
    try:
        for batch in batches:
            digest.add(batch)
            borders, upto = _borders(batch)
            start = 0
            while start < batch.num_rows:
                fits = int(np.searchsorted(upto[borders], upto[start] + room, side="right"))
                end = int(borders[fits - 1]) if fits else 0
                if end <= start:
                    if out is not None:
                        out.finish(inputs)
                    folder.mkdir(exist_ok=True)
                    files.append(folder / f"{split}.{len(files):05d}")
                    out, room = ParquetPart(files[-1], table, batch.schema, group_bytes=GROUP_BYTES), FILE_BYTES
                    end = max(end, int(borders[np.searchsorted(borders, start, side="right")]))
                out.add(batch.slice(start, end - start))
                room -= int(upto[end] - upto[start])
                start = end
            rows, size = rows + batch.num_rows, size + int(upto[-1])
        if out is not None:
            out.finish(inputs)
            out = None
    finally:
        if out is not None:
            out.close()
    for number, path in enumerate(files):
        path.rename(folder / f"{split}-{number:05d}-of-{len(files):05d}.parquet")
    return SplitFacts(split, rows, size)


def _borders(batch: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Rows after which a task ends, `[tasks]`; bytes of the values up to each row, `[rows + 1]`."""
    count, upto = batch.num_rows, np.concatenate(([0], np.cumsum(row_bytes(batch))))
    if "task" not in batch.column_names:
        return np.array([count]), upto
    task = batch["task"].combine_chunks()
    changes = pc.not_equal(task.slice(1), task.slice(0, count - 1)).to_numpy(zero_copy_only=False)
    return np.append(np.flatnonzero(changes) + 1, count), upto


def _stated(config: ConfigFacts) -> dict[str, Any]:
    return {
        "schema_version": version_of(config.name),
        "rows": config.rows,
        "digest": config.digest,
        "splits": {split.name: split.rows for split in config.splits},
    }


def _hygiene(account: AccountFacts) -> dict[str, Any] | None:
    """What hygiene held to be withheld, and what was done about it; None where it was not run."""
    if account.hygiene is None:
        return None
    left = {one.table: {name: count for name, count in asdict(one).items() if name != "table"} for one in account.left}
    return {"policy": account.policy or KEEP, "tasks": account.hygiene.withheld, "rows": left}


def _as_json(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, indent=1) + "\n"


def _complete(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether every file of the manifest is there in its size."""
    paths = {folder / name: stated["bytes"] for name, stated in manifest["files"].items()}
    return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())


def _report(folder: Path, manifest: dict[str, Any], *, fresh: bool) -> ReleaseReport:
    return ReleaseReport(
        folder=folder,
        rows={name: config["rows"] for name, config in manifest["configs"].items()},
        bytes=sum(stated["bytes"] for name, stated in manifest["files"].items() if name.endswith(".parquet")),
        digest=hashlib.sha256(_as_json(manifest).encode()).hexdigest()[:32],
        fresh=fresh,
    )
