"""Splits a JSON list of any length at the commas between its entries. Holds one entry, and reads none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from pipeline.exchange import units
from pipeline.exchange.units import MARK, PIECE, RECORD_FAULTS, Unit, too_long

_CHARACTERS = rb'[^"\\]*+(?:\\.[^"\\]*+)*+'
_STRING = b'"' + _CHARACTERS + b'"'
_BETWEEN = re.compile(rb'(?:[^"\[\]{},]++|' + _STRING + rb")*+", re.DOTALL)
_WITHIN = re.compile(rb'(?:[^"\[\]{}]++|' + _STRING + rb")*+", re.DOTALL)
_QUOTED = re.compile(_CHARACTERS, re.DOTALL)


def entries(path: Path) -> Iterator[Unit]:
    """The entries of the list that a file begins with; one that is no JSON is a fault of its own.

    A quote or bracket that is never closed takes what follows with it.
    """
    number, entry, is_long, ended = 0, bytearray(), False, False
    for piece, mark in _cuts(path):
        if ended:
            if mark or piece.strip():
                yield Unit(number + 1, None, "something follows the list")
                return
            continue
        is_long = is_long or len(entry) + len(piece) > units.MOST_BYTES
        if is_long:
            entry.clear()
        else:
            entry += piece
        if not mark:
            continue
        ended = mark == b"]"
        data = bytes(entry.strip())
        if is_long or data:
            number += 1
            yield Unit(number, None, too_long()) if is_long else Unit(number, data)
        elif number or not ended:
            number += 1
            yield Unit(number, None, "an entry is missing")
        entry, is_long = bytearray(), False
    if not ended:
        if _is_whole(entry):
            number += 1
            yield Unit(number, bytes(entry))
        yield Unit(number + 1, None, "the list breaks off")


def _is_whole(entry: bytes) -> bool:
    try:
        msgspec.json.decode(entry, type=msgspec.Raw)
    except RECORD_FAULTS:
        return False
    return True


def _cuts(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Pieces of entries, each with the comma or bracket that ends the entry, empty where it goes on; last, what follows
    the list."""
    level, is_quoted = 0, False
    with path.open("rb") as file:
        data = file.read(PIECE).removeprefix(MARK).lstrip()[1:]
        while True:
            at = start = 0
            while at < len(data):
                at = (_QUOTED if is_quoted else _WITHIN if level else _BETWEEN).match(data, at).end()
                mark = data[at : at + 1]
                if mark in (b"", b"\\"):  # the piece ends, maybe between a backslash and what it escapes
                    break
                at += 1
                if mark == b'"':
                    is_quoted = not is_quoted
                elif mark in b"[{":
                    level += 1
                elif level:
                    level -= 1
                elif mark != b"}":
                    yield data[start : at - 1], mark
                    start = at
                    if mark == b"]":
                        break
            yield data[start:at], b""
            if not (more := file.read(PIECE)):
                yield data[at:], b""
                return
            data = data[at:] + more
