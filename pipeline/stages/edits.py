"""Edits by hand as they are given: a step of a tree, and what shall stand in its place."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import BadConfig, BadInput
from pipeline.variants.answers import read_index


class Edit(NamedTuple):
    """A step to be written anew, and how its arms are drawn."""

    tree: str
    node: int
    text: str
    author: str
    continuations: int
    temperature: float
    top_p: float

    @property
    def drawn(self) -> tuple[int, float, float]:
        """How its arms are."""
        return self.continuations, self.temperature, self.top_p


class Given(NamedTuple):
    """An edit. at: where it was read, for print, as `edits.jsonl, line 3: `; empty: it was typed."""

    edit: Edit
    at: str = ""


def read_edits(file: str, *drawn: Any) -> list[Given]:
    """The edits of a file of JSON Lines, each with tree, node and text; blank lines are passed over.

    Args:
        drawn: what an `Edit` has beside these, of all alike.

    Raises:
        BadConfig: the file cannot be read. BadInput: a line is no edit, or there is none.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(f"{file} cannot be read: {error}", remedy="give a file of JSON Lines") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            edit = Edit(row["tree"], read_index(row["node"]), row["text"], *drawn)
            if not isinstance(edit.tree, str) or edit.node is None or not isinstance(edit.text, str):
                raise TypeError("tree and text are texts, node is a whole number")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadInput(
                f"{file}, line {number} is no edit: {type(error).__name__} {error}",
                remedy='write {"tree": "...", "node": 3, "text": "..."} a line',
            ) from error
        found.append(Given(edit, f"{file}, line {number}: "))
    if not found:
        raise BadInput(f"{file} has no edit", remedy='write {"tree": "...", "node": 3, "text": "..."} a line')
    return found


def together(edits: Iterable[Edit]) -> tuple[Edit, ...]:
    """Edits in their order, each once: one that is asked for again is the first, with the most continuations."""
    found: dict[tuple[Any, ...], Edit] = {}
    for edit in edits:
        of = edit._replace(author="", continuations=0)
        first = found.get(of, edit)
        found[of] = first._replace(continuations=max(first.continuations, edit.continuations))
    return tuple(found.values())
