"""Stage: paths of a round as files of a foreign format. Changes no store; holds a batch of tasks."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path as Folder

import msgspec

from pipeline.errors import BadConfig, check_words
from pipeline.exchange import EXPORTERS
from pipeline.exchange.paths import Exporter, Path, stored_trees
from pipeline.report import OnProgress, Progress, Report, silent
from pipeline.store.store import Store
from pipeline.store.write import disk_errors

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """format: key of EXPORTERS. folder: to write into. tree: of this one alone; empty: of all. node: the path to this
    node of the tree alone; -1: those to leaves, and to where imported paths end.
    """

    format: str = ""
    folder: str = ""
    tree: str = ""
    node: int = -1


def write_exports(
    store: Store, suite: str, round: str, config: ExportConfig, *, on_progress: OnProgress = silent
) -> Report:
    """Write paths of a round: a file each, or a line each in one file, as the format has it.

    Raises:
        BadConfig: there is no such format, tree or node, or the round has no nodes.
        StoreFull: the folder cannot be written.
    """
    check_words(config, format=EXPORTERS)
    if config.node >= 0 and not config.tree:
        raise BadConfig(f"node {config.node} is asked for without its tree", remedy="give --tree too")
    exporter: Exporter = import_module(EXPORTERS[config.format]).EXPORTER
    folder, started, paths, written = Folder(config.folder), time.monotonic(), 0, 0
    out = folder / f"{suite}.{round}.{config.format}.jsonl"
    part = out.with_name(f".{out.name}.part")
    with disk_errors(folder, setting="another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        with nullcontext() if exporter.ending else part.open("wb") as into:
            for path in _paths(store, suite, round, config):
                paths += 1
                found = list(exporter.lines(path))
                written += len(found)
                data = b"".join(_encode(line) + b"\n" for line in found)
                if into is not None:
                    into.write(data)
                elif found:
                    _replace(folder / f"{_file_name(path)}{exporter.ending}", data)
                on_progress(Progress("export", "paths", paths, paths, 0, 0, time.monotonic() - started))
        if into is not None:
            part.replace(out)
    if not paths:
        raise BadConfig(
            f"suite {suite}, round {round}, has no such nodes", remedy="`branchpoint tables` lists what there is"
        )
    numbers = {"paths": paths, "lines": written}
    return Report("export", suite, round, numbers=numbers, seconds=time.monotonic() - started)


def _paths(store: Store, suite: str, round: str, config: ExportConfig) -> Iterator[Path]:
    task = config.tree.rpartition("@")[0] or None
    for tree in stored_trees(store, suite, round, task=task):
        if config.tree in ("", tree.tree):
            ends = tree.ends() if config.node < 0 else [node for node in (config.node,) if node in tree.nodes]
            for end in ends:
                yield Path(tree, end)


def _file_name(path: Path) -> str:
    """A name of its own for each path, of letters that every file system takes."""
    name = "".join(letter if letter.isalnum() or letter in "_-@" else "_" for letter in path.tree.tree)
    return f"{name[-100:]}.{hashlib.blake2b(path.tree.tree.encode(), digest_size=4).hexdigest()}.{path.end}"


def _replace(file: Folder, data: bytes) -> None:
    part = file.with_name(f".{file.name}.part")
    part.write_bytes(data)
    part.replace(file)
