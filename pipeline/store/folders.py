"""A folder that appears whole: it is filled beside its place, and then moved there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.store.write import disk_errors


@contextmanager
def new_folder(folder: Path, *, setting: str) -> Iterator[Path]:
    """A folder to be filled, put in the place of another at the end of the block; an error leaves that as it was.

    Args:
        setting: what to go elsewhere with, for print.

    Raises:
        StoreFull: the disk refused.
    """
    part, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    with disk_errors(folder, setting=setting):
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            yield part
            if folder.exists():
                folder.rename(old)
            part.rename(folder)
        finally:
            if old.exists() and not folder.exists():
                old.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
            shutil.rmtree(part, ignore_errors=True)
