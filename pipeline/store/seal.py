"""A Parquet file's digest of its own bytes, kept inside it: one file, one rename, nothing beside it that could be lost.

The footer has room for the digest, filled with zeros while it is taken. A flipped byte anywhere, the digest's own
included, breaks the seal.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

SEAL = b"branchpoint.seal"
BLANK = b"0" * 64
_TAIL = 8
"""Bytes after the footer: its length and Parquet's magic number."""
_CHUNK = 1 << 20
_BETWEEN = 8
"""Most bytes that Thrift puts between a key and its value."""


def seal(path: Path) -> str:
    """Write the digest of a closed file into it. The file's metadata must have SEAL with the value BLANK.

    Returns:
        Hex digest of the bytes, as `read_seal` will find it.

    Raises:
        ValueError: there is no room for it.
    """
    with path.open("r+b") as file:
        at = _place(file)
        if at is None:
            raise ValueError(f"{path} has no room for a seal")
        digest = _digest(file, at)
        file.seek(at)
        file.write(digest.encode())
    return digest


def is_whole(file: BinaryIO) -> bool | None:
    """Whether a file's bytes are those that were sealed. None: it has no seal, or none that can be found."""
    at = _place(file)
    if at is None:
        return None
    file.seek(at)
    stated = file.read(len(BLANK)).decode("ascii", "replace")
    return stated == _digest(file, at)


def _place(file: BinaryIO) -> int | None:
    """Offset of the digest in the file; None where there is none."""
    size = file.seek(0, 2)
    if size < 2 * _TAIL:
        return None
    file.seek(size - _TAIL)
    length = int.from_bytes(file.read(4), "little")
    if not 0 < length <= size - _TAIL:
        return None
    start = size - _TAIL - length
    file.seek(start)
    footer = file.read(length)
    key = footer.rfind(SEAL)
    if key < 0:
        return None
    after = footer[key + len(SEAL) : key + len(SEAL) + _BETWEEN + len(BLANK)]
    for skip in range(_BETWEEN):
        value = after[skip : skip + len(BLANK)]
        if len(value) == len(BLANK) and all(letter in b"0123456789abcdef" for letter in value):
            return start + key + len(SEAL) + skip
    return None


def _digest(file: BinaryIO, at: int) -> str:
    """Of all bytes, with zeros for the digest's own."""
    sink = hashlib.sha256()
    file.seek(0)
    left = at
    while left:
        chunk = file.read(min(_CHUNK, left))
        if not chunk:
            break
        sink.update(chunk)
        left -= len(chunk)
    sink.update(BLANK)
    file.seek(at + len(BLANK))
    while chunk := file.read(_CHUNK):
        sink.update(chunk)
    return sink.hexdigest()
