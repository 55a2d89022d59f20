"""A record as it lies in a file, how large one may be, and how what is wrong with one is told."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from pipeline.exchange.document import Refused

MOST_BYTES = 64 * 2**20
"""Of one record, in memory."""
PIECE = 2**20
"""Bytes that are read at once."""
MARK = b"\xef\xbb\xbf"
RECORD_FAULTS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, Refused)
"""What a record that cannot be read raises."""


class Unit(NamedTuple):
    """A record as it lies in a file, at a line or a number from 1. data: None where it cannot be had, `why` says so."""

    line: int
    data: bytes | None
    why: str = ""


def too_long() -> str:
    """Why a record is passed over."""
    return f"longer than {MOST_BYTES} bytes"


def said(error: BaseException) -> str:
    """What is wrong, in one line of bounded length."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start}"
    return " ".join(str(error).split())[:300] or type(error).__name__
