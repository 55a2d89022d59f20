"""Compares a release's files with what its manifest and its card say of them. Knows no store and no network.

Everything is found out anew from the Parquet files; a finding names the file, config or part of the card at fault.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import BadTable
from pipeline.publish.card_figures import said_of_files
from pipeline.publish.card_making import columns_table
from pipeline.publish.facts import AccountFacts, ConfigFacts, SplitFacts
from pipeline.publish.features import schema_features
from pipeline.publish.folder import CARD, Folder, sha256_of
from pipeline.publish.gather import gather_facts
from pipeline.store.checks import Finding
from pipeline.store.digest import RowDigest
from pipeline.store.write import row_bytes
from schemas import TABLES
from schemas.base import arrow_schema, schema_docs
from schemas.words import SPLITS

REMEDY = "release it anew: a card and its numbers are made from the files"


class Compared(NamedTuple):
    """What was found. what: a file, a config, or a part of the card; detail: how it differs, or what was looked at."""

    what: str
    passed: bool
    detail: str


def check_release(folder: Folder) -> Iterator[Compared]:
    """Bytes, then the card's configs, then every number; each only where the one before holds.

    Raises:
        BadConfig: no release lies there.
    """
    files = list(check_files(folder))
    yield from files
    if all(found.passed for found in files):
        stated = list(_stated(folder))
        yield from stated
        if all(found.passed for found in stated):
            yield from _check_rows(folder)


def refuse_unsound(folder: Folder) -> None:
    """Let no release pass whose files are not what manifest and card say.

    Raises:
        BadConfig: no release lies there.
        BadTable: names the first that differs.
    """
    for found in check_release(folder):
        if not found.passed:
            raise BadTable(f"{found.what}: {found.detail}", remedy=REMEDY)


def check_files(folder: Folder) -> Iterator[Compared]:
    """Every file against size and SHA-256 in the manifest."""
    stated, there = folder.manifest["files"], {}
    for path in sorted(folder.mine()):
        there[path.relative_to(folder.path).as_posix()] = path
    for name in sorted(stated.keys() | there.keys()):
        yield Compared(name, *_compared(stated.get(name), there.get(name)))


def _compared(stated: dict[str, Any] | None, path: Path | None) -> Finding:
    if stated is None:
        return Finding(False, "is in the folder and not in the manifest")
    if path is None:
        return Finding(False, "is in the manifest and not in the folder")
    if path.stat().st_size != stated["bytes"]:
        return Finding(False, f"has {path.stat().st_size:,} bytes, the manifest says {stated['bytes']:,}")
    found = sha256_of(path)
    return Finding(
        found == stated["sha256"], f"SHA-256 {found}" + ("" if found == stated["sha256"] else ", not as stated")
    )


def _stated(folder: Folder) -> Iterator[Compared]:
    """The card's YAML against names, schemas and sizes of the Parquet files."""
    from huggingface_hub import DatasetCard

    try:
        data = DatasetCard.load(folder.path / CARD, ignore_metadata_errors=True).data.to_dict()
        configs = {one["config_name"]: one for one in data["configs"]}
        infos = {one["config_name"]: one for one in data["dataset_info"]}
        named = {(name, one["split"]): one["path"] for name, config in configs.items() for one in config["data_files"]}
        yield Compared(CARD, True, f"{len(configs)} configs")
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield Compared(CARD, False, f"its YAML has no configs that can be read ({error})")
        return
    there, text = set(folder.configs), (folder.path / CARD).read_text(encoding="utf-8")
    for name in sorted(there | configs.keys() | infos.keys()):
        lacking = [
            what for what, of in (("files", there), ("configs", configs), ("dataset_info", infos)) if name not in of
        ]
        if lacking:
            yield Compared(name, False, f"is not among the {' and the '.join(lacking)}")
            continue
        patterns = {split: path for (config, split), path in named.items() if config == name}
        found = Compared(name, *_config(folder, name, patterns, infos[name]))
        yield found
        if found.passed:
            yield Compared(f"{name} columns", *_columns(text, name, pq.read_schema(folder.files(name)[0])))


def _config(folder: Folder, name: str, patterns: dict[str, str], info: dict[str, Any]) -> Finding:
    """One config of the card against its files."""
    try:
        files = folder.splits(name)
    except BadTable as error:
        return Finding(False, str(error))
    if patterns.keys() != files.keys():
        return Finding(False, f"the card has splits {', '.join(patterns) or 'none'}, the files {', '.join(files)}")
    every = [path for paths in files.values() for path in paths]
    of_all = sorted(folder.path.glob("*/*.parquet"))
    for split, pattern in patterns.items():
        matched = [path for path in of_all if fnmatchcase(path.relative_to(folder.path).as_posix(), pattern)]
        if matched != files[split]:
            said = f"{pattern} of the card does not match the {len(files[split])} files of split {split}"
            return Finding(False, said)
    for path in every:
        try:
            schema = pq.read_schema(path)
        except (pa.ArrowException, OSError) as error:
            return Finding(False, f"{path.name} is no Parquet: {error}")
        if schema_features(schema) != info["features"]:
            return Finding(False, f"features of the card are not the columns of {path.name}")
    said = {split["name"]: split["num_examples"] for split in info["splits"]}
    rows = {split: sum(pq.read_metadata(path).num_rows for path in paths) for split, paths in files.items()}
    if said != rows:
        return Finding(False, f"the card says {said} rows, the files have {rows}")
    size = sum(path.stat().st_size for path in every)
    if info["download_size"] != size:
        return Finding(False, f"the card says {info['download_size']:,} bytes, the files have {size:,}")
    return Finding(True, ", ".join(f"{count:,} rows in {split}" for split, count in rows.items()))


def _columns(text: str, name: str, schema: pa.Schema) -> Finding:
    """The card's table of a config's columns against the schema of its files."""
    section = re.search(rf"^### `{re.escape(name)}`\n(.*?)(?=^#|\Z)", text, re.DOTALL | re.MULTILINE)
    said = [line for line in section[1].splitlines() if line.startswith("|")] if section else []
    wanted = columns_table(schema_docs(schema)).splitlines()
    if said == wanted:
        return Finding(True, f"{len(schema)} columns as the files describe them")
    if strange := [line for line in said if _column(line) not in map(_column, wanted)]:
        return Finding(False, f"the card tells of {_column(strange[0])}, which the files do not have")
    lost = next((line for line in wanted if line not in said), "")
    return Finding(False, f"the card should say: {lost}" if lost else "the card tells of columns twice or out of order")


def _column(line: str) -> str:
    """The first cell of a row."""
    return line.split("|")[1].strip()


def _check_rows(folder: Folder) -> Iterator[Compared]:
    """Digests of rows, and the numbers in the card, each computed anew from the rows."""
    manifest, configs = folder.manifest, []
    for name in folder.configs:
        found = config_facts(folder, name)
        configs.append(found)
        stated = manifest["configs"].get(name, {})
        same = found.digest == stated.get("digest") and found.rows == stated.get("rows")
        detail = f"digest of its rows {found.digest}"
        yield Compared(f"{name} rows", same, detail if same else f"{detail}; the manifest says {stated.get('digest')}")
    text = (folder.path / CARD).read_text(encoding="utf-8")
    facts = gather_facts(folder, configs, AccountFacts(), suite=manifest["suite"], round=manifest["round"])
    for what, part in said_of_files(facts).items():
        lost = next((line for line in part.splitlines() if line not in text), None)
        held = f"{part}\n\n" in f"{text}\n"
        yield Compared(f"{CARD} {what}", held, "as the files have it" if held else f"should say: {lost or part}")


def config_facts(folder: Folder, name: str) -> ConfigFacts:
    """What the files of a config hold."""
    digest, splits, files = RowDigest(arrow_schema(TABLES[name])), [], folder.splits(name)
    for split in SPLITS:
        rows = size = 0
        for batch in folder.batches(name, split):
            digest.add(batch)
            rows, size = rows + batch.num_rows, size + int(row_bytes(batch).sum())
        if rows:
            splits.append(SplitFacts(split, rows, size))
    return ConfigFacts(
        name, digest.hexdigest(), tuple(splits), sum(path.stat().st_size for paths in files.values() for path in paths)
    )
