"""The files of a store, in a folder of this machine or behind any fsspec URL: list, open, put, remove, lock.

A file appears whole or not at all: a rename on a disk, one put in an object store. Knows no table and no Parquet.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol

from pipeline.errors import BadConfig, BadTable

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

LOCKS = ".locks"
_STATES = ("ETag", "etag", "generation", "version_id", "blob_id", "mtime", "LastModified", "last_modified", "created")
"""What object stores call that which changes with a file, the surest first."""


class Stamp(NamedTuple):
    """A file as it was seen: whoever writes it changes one of these.

    name:  path below the root, `/` between its parts.
    state: the time of its last change in ns, or what an object store says in place of that.
    """

    name: str
    size: int
    state: str


class Files(Protocol):
    """Where a store's files are. Names are relative to the root."""

    @property
    def local(self) -> Path:
        """A folder of this machine for what no object store can hold: ledger, catalogue, locks, parts of files."""
        ...

    def list(self, below: str) -> Iterator[Stamp]:
        """Every Parquet file below a folder, in no order; files whose name begins with a dot are left out."""
        ...

    def stat(self, name: str) -> Stamp | None:
        """The file as it is now. None: there is none."""
        ...

    def open(self, name: str) -> BinaryIO:
        """The file's bytes, to be read from any place."""
        ...

    def address(self, name: str) -> str:
        """What DuckDB and polars open it by."""
        ...

    def put(self, part: Path, name: str) -> None:
        """Move a finished file of this machine to its name, replacing what was there at once."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        ...


class LocalFiles:
    """A folder of this machine."""

    def __init__(self, root: Path):
        self.root = root

    @property
    def local(self) -> Path:
        return self.root

    def list(self, below: str) -> Iterator[Stamp]:
        waiting = [below]
        while waiting:
            folder = waiting.pop()
            try:
                entries = os.scandir(self.root / folder)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except PermissionError as error:
                raise unreadable(self.address(folder), error) from error
            with entries:
                for entry in entries:
                    name = f"{folder}/{entry.name}"
                    if entry.name.startswith("."):
                        continue
                    if _is_folder(entry):
                        waiting.append(name)
                    elif entry.name.endswith(".parquet"):
                        try:
                            found = entry.stat()
                        except FileNotFoundError:
                            if entry.is_symlink():  # to nothing: for whoever reads it to name
                                yield Stamp(name, 0, "")
                            continue
                        yield Stamp(name, found.st_size, str(found.st_mtime_ns))

    def stat(self, name: str) -> Stamp | None:
        try:
            found = os.stat(self.root / name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError as error:
            raise unreadable(self.address(name), error) from error
        return Stamp(name, found.st_size, str(found.st_mtime_ns))

    def open(self, name: str) -> BinaryIO:
        return (self.root / name).open("rb")

    def address(self, name: str) -> str:
        return str(self.root.absolute() / name)

    def put(self, part: Path, name: str) -> None:
        with part.open("rb") as handle:
            os.fsync(handle.fileno())
        part.replace(self.root / name)

    def remove(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)


class RemoteFiles:
    """Behind a URL that fsspec opens: s3://, gs://, hf://, memory://, ..."""

    def __init__(self, url: str, local: Path):
        self.url, self._local = url.rstrip("/"), local

    @cached_property
    def _opened(self) -> tuple[AbstractFileSystem, str]:
        from fsspec.core import url_to_fs

        try:
            return url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise BadConfig(
                f"store {self.url} cannot be opened: {error}", remedy="install what fsspec needs for it"
            ) from error

    @property
    def fs(self) -> AbstractFileSystem:
        """The file system itself, for readers that take one."""
        return self._opened[0]

    @property
    def local(self) -> Path:
        return self._local

    def _path(self, name: str) -> str:
        return f"{self._opened[1]}/{name}"

    def list(self, below: str) -> Iterator[Stamp]:
        self.fs.invalidate_cache()
        try:
            found = self.fs.find(self._path(below), detail=True)
        except FileNotFoundError:
            return
        for path, info in found.items():
            name = path[len(self._opened[1]) + 1 :]
            if name.endswith(".parquet") and not name.rsplit("/", 1)[-1].startswith("."):
                yield Stamp(name, info["size"], _state(info))

    def stat(self, name: str) -> Stamp | None:
        self.fs.invalidate_cache()
        try:
            info = self.fs.info(self._path(name))
        except FileNotFoundError:
            return None
        return Stamp(name, info["size"], _state(info))

    def open(self, name: str) -> BinaryIO:
        return self.fs.open(self._path(name), "rb")

    def address(self, name: str) -> str:
        return f"{self.url}/{name}"

    def put(self, part: Path, name: str) -> None:
        self.fs.put_file(str(part), self._path(name))
        part.unlink()

    def remove(self, name: str) -> None:
        try:
            self.fs.rm_file(self._path(name))
        except FileNotFoundError:
            return


def unreadable(where: str, error: OSError) -> BadTable:
    """What a disk or a network refused to give; the file itself may be as it was."""
    return BadTable(
        f"{where} cannot be read: {os.strerror(error.errno)}", remedy="see that it can be, then run the command again"
    )


def _is_folder(entry: os.DirEntry) -> bool:
    """Whether it is one, or a link to one; a link that leads round to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _state(info: dict) -> str:
    """What changes with the file: an object store's tag or version, else the time of its last change."""
    for key in _STATES:
        if found := info.get(key):
            return str(found.timestamp() if isinstance(found, datetime) else found)
    return ""


def is_url(root: str | Path) -> bool:
    """Whether a store is named by a URL, `file://` included, rather than by a path."""
    return "://" in str(root)


def files_at(root: str | Path, *, local: Path | None = None) -> Files:
    """The files below a folder or a URL.

    Args:
        local: folder for the ledger and what goes with it, of a store behind a URL; one below the working folder
            where none is given.
    """
    text = str(root)
    if text.startswith("file://"):
        return LocalFiles(Path(text.removeprefix("file://")))
    if not is_url(text):
        return LocalFiles(Path(root))
    name = blake2b(text.rstrip("/").encode(), digest_size=6).hexdigest()
    return RemoteFiles(text, local or Path(".branchpoint") / f"store-{name}")


@contextmanager
def locked(files: Files, name: str) -> Iterator[None]:
    """Hold a shard against other writers of this machine. Given back when the process ends, however it ends.

    Raises:
        BadTable: another one writes it.
    """
    from filelock import FileLock, Timeout

    folder = files.local / LOCKS
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{blake2b(name.encode(), digest_size=12).hexdigest()}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BadTable(
            f"{name} is being written by another process", remedy="wait until it is done, then run again"
        ) from error
    try:
        yield
    finally:
        lock.release()
