"""The files that are asked for by one path: their names, digests, and why some cannot be read."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import BadInput


class Source(NamedTuple):
    """A file, or a folder that cannot be listed.

    name:   without the folder that was asked for.
    digest: SHA-256 of its bytes; of the reason where it cannot be read.
    why:    it cannot be read; empty: it can.
    """

    path: Path
    name: str
    digest: bytes
    why: str = ""


def sources(root: Path, endings: tuple[str, ...]) -> list[Source]:
    """The file, or those of a folder and of the folders in it, in the order of their names.

    Raises:
        BadInput: there are none, or the one that was asked for cannot be read.
    """
    found = [_source(path, root, why) for path, why in _listed(root, endings)]
    if not found:
        raise BadInput(f"{root} has no {' or '.join(endings)} files", remedy="name another folder, or a file")
    if found[0].path == root and found[0].why:
        raise BadInput(f"{root} cannot be read: {found[0].why}", remedy="correct the path, or see that it can be")
    return found


def _listed(root: Path, endings: tuple[str, ...]) -> list[tuple[Path, str]]:
    """Files, and folders with the reason why they cannot be listed."""
    if not os.path.isdir(root):
        return [(root, "")]
    failed: list[OSError] = []
    names = [
        Path(folder, name)
        for folder, _, files in os.walk(root, onerror=failed.append)
        for name in files
        if name.endswith(endings)
    ]
    return sorted([*((path, "") for path in names), *((Path(error.filename), error.strerror) for error in failed)])


def _source(path: Path, root: Path, why: str) -> Source:
    name = path.name if path == root else path.relative_to(root).as_posix()
    name = os.fsencode(name).decode(errors="replace")
    try:
        why = why or _why_not(path)
        if not why:
            with path.open("rb") as raw:
                return Source(path, name, hashlib.file_digest(raw, "sha256").digest())
    except OSError as error:
        why = error.strerror
    return Source(path, name, hashlib.sha256(why.encode()).digest(), why)


def _why_not(path: Path) -> str:
    """Whatever waits or never ends when it is read is no file.

    Raises:
        OSError: it is not there, or may not be looked at.
    """
    return "" if stat.S_ISREG(path.stat().st_mode) else "it is no file"
