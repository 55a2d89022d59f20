"""A folder that appears whole: it is filled beside its place, and then moved there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.store.write import disk_errors


@contextmanager
def new_folder(folder: Path, *, setting: str, alone: bool = False) -> Iterator[Path]:
    """A folder to be filled, put in the place of another at the end of the block; an error leaves that as it was.

    Args:
        setting: what to go elsewhere with, for print.
        alone: nobody else makes it at the same time, so what a killed process had set aside is put back first.

    Raises:
        StoreFull: the disk refused.
    """
    maker = "" if alone else f".{os.getpid()}"
    part, old = (folder.with_name(f".{folder.name}{maker}.{end}") for end in ("part", "old"))
    with disk_errors(folder, setting=setting):
        try:
            _put_back(old, folder)
            for left in (part, old):
                shutil.rmtree(left, ignore_errors=True)
            part.mkdir(parents=True)
            yield part
            if folder.exists():
                folder.rename(old)
            part.rename(folder)
        finally:
            _put_back(old, folder)
            shutil.rmtree(old, ignore_errors=True)
            shutil.rmtree(part, ignore_errors=True)


def _put_back(old: Path, folder: Path) -> None:
    if old.exists() and not folder.exists():
        old.rename(folder)
