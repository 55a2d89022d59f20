"""Takes foreign files apart into records of bounded size, and turns what cannot be read into faults.

Nothing of a file is run, and no more than one record is held.
"""

from __future__ import annotations

import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from pipeline.errors import BadInput
from pipeline.exchange.document import Document, Fault, Refused, Restored

if TYPE_CHECKING:
    import pyarrow as pa

MOST_BYTES = 64 * 2**20
"""Of one record, in memory."""
_PIECE = 2**20
_MOST_RATIO = 250
"""How much larger than packed a member of an archive may be, once it is over a megabyte."""
_MARK = b"\xef\xbb\xbf"
_CONSTANTS = (b"NaN", b"Infinity")
_LENIENT = json.JSONDecoder(parse_constant=lambda name: None)
_BETWEEN = re.compile(r"[\s,]*")
_ZIP_FAULTS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError)
_RECORD_FAULTS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, Refused)


class Unit(NamedTuple):
    """A record as it lies in a file, at a line or a number from 1. data: None where it cannot be had, `why` says so."""

    line: int
    data: bytes | None
    why: str = ""


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
        while line := file.readline(MOST_BYTES + 1):
            number += 1
            if len(line) > MOST_BYTES:
                while line and not line.endswith(b"\n"):
                    line = file.readline(_PIECE)
                yield Unit(number, None, f"longer than {MOST_BYTES} bytes")
            elif not line.isspace():
                yield Unit(number, line.removeprefix(_MARK) if number == 1 else line)


def whole(path: Path) -> Iterator[Unit]:
    """A file that is one record."""
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        yield Unit(1, None, f"longer than {MOST_BYTES} bytes")
    else:
        yield Unit(1, data.removeprefix(_MARK))


def objects(path: Path) -> Iterator[Unit]:
    """The lines of a .jsonl file; of another its one record."""
    yield from lines(path) if path.suffix == ".jsonl" else whole(path)


def rows(path: Path) -> Iterator[Unit]:
    """The rows of a Parquet file, the entries of a JSON list, or the lines of JSON Lines."""
    if path.suffix == ".parquet":
        yield from _parquet(path)
        return
    with path.open("rb") as file:
        is_list = file.read(_PIECE).removeprefix(_MARK).lstrip()[:1] == b"["
    if not is_list:
        yield from lines(path)
        return
    for unit in whole(path):
        if unit.data is None:
            yield unit
        else:
            yield from _entries(unit.data)


def _entries(data: bytes) -> Iterator[Unit]:
    """The entries of a JSON list, NaN as null; of one that breaks off those before the fault."""
    try:
        for number, entry in enumerate(msgspec.json.decode(data, type=list[msgspec.Raw]), start=1):
            yield Unit(number, bytes(entry))
        return
    except _RECORD_FAULTS as error:
        why = said(error)
    text, number = data.decode(errors="surrogateescape"), 0
    at = _BETWEEN.match(text, text.index("[") + 1).end()
    while text[at : at + 1] not in ("", "]"):
        try:
            entry, at = _LENIENT.raw_decode(text, at)
        except (ValueError, RecursionError):
            break
        number += 1
        try:
            yield Unit(number, msgspec.json.encode(entry))
        except (ValueError, RecursionError) as error:
            yield Unit(number, None, said(error))
        at = _BETWEEN.match(text, at).end()
    if text[at:].strip() != "]":
        yield Unit(number + 1, None, f"the list breaks off: {why}")


def _parquet(path: Path) -> Iterator[Unit]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(1024):
                yield from _rows_of(batch, number + 1)
                number += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        yield Unit(number + 1, None, f"no readable Parquet: {said(error)}")


def _rows_of(batch: pa.RecordBatch, first: int) -> Iterator[Unit]:
    """Rows as JSON. A batch that is too large or not UTF-8 is halved until the row at fault is alone."""
    why, rows = f"longer than {MOST_BYTES} bytes", None
    if batch.nbytes <= MOST_BYTES:
        try:
            rows = batch.to_pylist()
        except UnicodeDecodeError as error:
            why = said(error)
    if rows is None and batch.num_rows > 1:
        half = batch.num_rows // 2
        yield from _rows_of(batch.slice(0, half), first)
        yield from _rows_of(batch.slice(half), first + half)
    elif rows is None:
        yield Unit(first, None, why)
    else:
        for number, row in enumerate(rows, start=first):
            data = msgspec.json.encode(row)
            yield Unit(number, data) if len(data) <= MOST_BYTES else Unit(number, None, why)


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
    most = min(MOST_BYTES, max(_PIECE, _MOST_RATIO * member.compress_size))
    try:
        with archive.open(member) as file:
            data = file.read(most + 1)
    except (*_ZIP_FAULTS, OSError, ValueError) as error:
        return Unit(number, None, f"{member.filename[:80]!r} cannot be unpacked: {said(error)}")
    if len(data) > most:
        return Unit(number, None, f"{member.filename[:80]!r} unpacks to more than {most} bytes")
    return Unit(number, data)


def documents(importer: Importer, path: Path) -> Iterator[tuple[int, Document | Restored | Fault]]:
    """What a file holds, each with its line; what cannot be read is a fault, and the rest goes on.

    Raises:
        BadInput: the file itself cannot be opened.
    """
    try:
        for unit in importer.units(path):
            if unit.data is None:
                yield unit.line, Fault(unit.line, unit.why)
                continue
            try:
                for found in importer.parse(strict(unit.data)):
                    yield (found.line if isinstance(found, Fault) and found.line else unit.line), found
            except _RECORD_FAULTS as error:
                yield unit.line, Fault(unit.line, said(error))
    except OSError as error:
        raise BadInput(
            f"{path} cannot be read: {error.strerror}", remedy="see that it can be, then import it again"
        ) from error


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


def said(error: BaseException) -> str:
    """What is wrong, in one line of bounded length."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start}"
    return " ".join(str(error).split())[:300] or type(error).__name__
