"""Sorts more records than memory holds: sorted runs on disk, merged while they are read."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path
from struct import Struct

_HEAD = Struct("<IQI")
_HELD_BYTES = 64 * 2**20


class Spool:
    """Records by key. Those of one key come in the order they were added."""

    def __init__(self, folder: Path):
        self._folder, self._runs = folder, []
        self._held: list[tuple[str, int, bytes]] = []
        self._size = self._count = 0

    def add(self, key: str, data: bytes) -> None:
        self._held.append((key, self._count, data))
        self._count += 1
        self._size += len(data) + len(key) + 100
        if self._size > _HELD_BYTES:
            self._write()

    def read(self) -> Iterator[tuple[str, bytes]]:
        """All records in the order of their keys."""
        self._held.sort()
        runs = [self._run(path) for path in self._runs]
        for key, _, data in heapq.merge(*runs, self._held) if runs else self._held:
            yield key, data

    def _write(self) -> None:
        path = self._folder / f"{len(self._runs)}.run"
        self._held.sort()
        with path.open("wb") as file:
            for key, number, data in self._held:
                name = key.encode()
                file.write(_HEAD.pack(len(name), number, len(data)) + name + data)
        self._runs.append(path)
        self._held, self._size = [], 0

    def _run(self, path: Path) -> Iterator[tuple[str, int, bytes]]:
        with path.open("rb", buffering=2**20) as file:
            while head := file.read(_HEAD.size):
                of_name, number, of_data = _HEAD.unpack(head)
                yield file.read(of_name).decode(), number, file.read(of_data)
