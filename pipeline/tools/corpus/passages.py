"""Passages and the file they are read from: JSON lines of id, title and text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import BadInput


class Passage(NamedTuple):
    """id: of one passage in its corpus. title: may be empty."""

    id: str
    title: str
    text: str


def read_passages(path: Path) -> list[Passage]:
    """The passages of a file in its order.

    Raises:
        BadInput: it cannot be read, a line is no such object, or two have one id; names file and line.
    """
    passages: dict[str, Passage] = {}
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    passage = _passage(line, f"{path}:{number}")
                    if passage.id in passages:
                        raise BadInput(f"{path}:{number}: id {passage.id!r} is there twice", remedy="give each its own")
                    passages[passage.id] = passage
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}", remedy="correct the path") from error
    if not passages:
        raise BadInput(f"{path} has no passages", remedy="give one a line")
    return list(passages.values())


def _passage(line: bytes, where: str) -> Passage:
    try:
        row = json.loads(line)
        json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is text no index takes
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where} is not JSON: {error}", remedy="mend or remove the line") from error
    fields = (row.get("id"), row.get("title", ""), row.get("text")) if isinstance(row, dict) else (None,)
    if not all(isinstance(field, str) for field in fields) or not fields[0] or not fields[2]:
        raise BadInput(f"{where} is no passage", remedy='give {"id": "...", "title": "...", "text": "..."}, all texts')
    return Passage(*fields)
