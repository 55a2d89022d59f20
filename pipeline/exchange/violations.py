"""What could not be read: a line each of a file on this machine, which takes its place when all is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec


class _Line(msgspec.Struct):
    file: str
    line: int
    violation: str


class Violations:
    """Being written; `count` of them so far."""

    def __init__(self, path: Path):
        self.path, self.count = path, 0
        self._part = path.with_suffix(".part")
        self._into = self._part.open("wb")

    def add(self, file: str, line: int, why: str) -> None:
        """One more. line: from 1; 0: the file as a whole."""
        self._into.write(msgspec.json.encode(_Line(file, line, why)) + b"\n")
        self.count += 1

    def publish(self) -> None:
        """Take the place of those of the last time."""
        self._into.flush()
        self._part.replace(self.path)

    def close(self) -> None:
        """Write no more; what was not published is gone."""
        self._into.close()
        self._part.unlink(missing_ok=True)


@contextmanager
def violations(path: Path) -> Iterator[Violations]:
    """Those of one import."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = Violations(path)
    try:
        yield found
    finally:
        found.close()


def count_violations(path: Path) -> int:
    """How many were told the last time; 0 where nothing was."""
    try:
        with path.open("rb") as lines:
            return sum(1 for _ in lines)
    except FileNotFoundError:
        return 0
