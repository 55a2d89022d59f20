"""Takes foreign files apart into records of bounded size, and turns what cannot be read into faults.

Nothing of a file is run, and no more than one record is held.
"""

from __future__ import annotations

import json
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from pipeline.exchange import units
from pipeline.exchange.document import Document, Fault, Restored
from pipeline.exchange.json_list import entries
from pipeline.exchange.parquet_rows import parquet_rows
from pipeline.exchange.units import MARK, PIECE, RECORD_FAULTS, Unit, said, too_long

_MOST_RATIO = 250
"""How much larger than packed a member of an archive may be, once it is over a megabyte."""
_CONSTANTS = (b"NaN", b"Infinity")
_ZIP_FAULTS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError)

Units = Callable[[Path], Iterator[Unit]]
Parse = Callable[[bytes], Iterable[Document | Restored | Fault]]


class Importer(NamedTuple):
    """How a format is read.

    parse:  a record to documents. Raises msgspec's errors, UnicodeDecodeError, RecursionError or Refused.
    units:  a file to records.
    endings: of the files that are looked for where a folder is given.
    """

    parse: Parse
    units: Units
    endings: tuple[str, ...]


def lines(path: Path) -> Iterator[Unit]:
    """The lines of a file but for blank ones; those that are too long are passed over, not held."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(units.MOST_BYTES + 1):
            number += 1
            if len(line) > units.MOST_BYTES:
                while line and not line.endswith(b"\n"):
                    line = file.readline(PIECE)
                yield Unit(number, None, too_long())
            elif not line.isspace():
                yield Unit(number, line.removeprefix(MARK) if number == 1 else line)


def whole(path: Path) -> Iterator[Unit]:
    """A file that is one record."""
    with path.open("rb") as file:
        data = file.read(units.MOST_BYTES + 1)
    if len(data) > units.MOST_BYTES:
        yield Unit(1, None, too_long())
    else:
        yield Unit(1, data.removeprefix(MARK))


def objects(path: Path) -> Iterator[Unit]:
    """The lines of a .jsonl file; of another its one record."""
    yield from lines(path) if path.suffix == ".jsonl" else whole(path)


def rows(path: Path) -> Iterator[Unit]:
    """The rows of a Parquet file, the entries of a JSON list, or the lines of JSON Lines."""
    if path.suffix == ".parquet":
        yield from parquet_rows(path)
        return
    with path.open("rb") as file:
        is_list = file.read(PIECE).removeprefix(MARK).lstrip()[:1] == b"["
    yield from entries(path) if is_list else lines(path)


def members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Unit]]:
    """The members of a zip archive, by name, in its order; what unpacks to too much is passed over.

    What an archive says of its sizes is not believed: no member is unpacked further than what a record may hold, and
    all together read no more than the archive has.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (*_ZIP_FAULTS, OSError) as error:
        yield "", Unit(0, None, f"no readable zip archive: {said(error)}")
        return
    with archive:
        room = path.stat().st_size
        for number, member in enumerate(archive.infolist(), start=1):
            if wanted(member.filename):
                room -= member.compress_size
                if room < 0:
                    yield member.filename, Unit(number, None, "members lie over one another, from here on")
                    return
                yield member.filename, _unpacked(archive, member, number)


def _unpacked(archive: zipfile.ZipFile, member: zipfile.ZipInfo, number: int) -> Unit:
    most = min(units.MOST_BYTES, max(PIECE, _MOST_RATIO * member.compress_size))
    try:
        with archive.open(member) as file:
            data = file.read(most + 1)
    except (*_ZIP_FAULTS, OSError, ValueError) as error:
        return Unit(number, None, f"{member.filename[:80]!r} cannot be unpacked: {said(error)}")
    if len(data) > most:
        return Unit(number, None, f"{member.filename[:80]!r} unpacks to more than {most} bytes")
    return Unit(number, data)


def documents(importer: Importer, path: Path) -> Iterator[tuple[int, Document | Restored | Fault]]:
    """What a file holds, each with its line; what cannot be read is a fault, and the rest goes on."""
    try:
        for unit in importer.units(path):
            if unit.data is None:
                yield unit.line, Fault(unit.line, unit.why)
                continue
            try:
                for found in importer.parse(strict(unit.data)):
                    yield (found.line if isinstance(found, Fault) and found.line else unit.line), found
            except RECORD_FAULTS as error:
                yield unit.line, Fault(unit.line, said(error))
    except OSError as error:  # it may go away after it was listed
        yield 0, Fault(0, error.strerror or said(error))


def strict(data: bytes) -> bytes:
    """The record with null in place of NaN and the infinities, which Python writes and JSON does not have."""
    if not any(name in data for name in _CONSTANTS):
        return data
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except msgspec.DecodeError:
        try:
            return msgspec.json.encode(json.loads(data, parse_constant=lambda name: None))
        except (ValueError, RecursionError):
            return data
    return data
