"""What judges and people said of nodes, read and checked: lists as JSON, flags, places.

Does not know methods. A text is parsed once, however many nodes have it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from pipeline.credit.columns import Trees, ranges
from pipeline.credit.inputs import INPUTS
from pipeline.errors import BadTable

PRINTED = 60
"""Characters of a text that are told."""


class BadScore(BadTable):
    """A score that is not of the kind its name stands for. row: of the node it is about, among those of the trees."""

    def __init__(self, culprit: str, *, remedy: str, row: int = -1):
        super().__init__(culprit, remedy=remedy)
        self.row = row


class Lists(NamedTuple):
    """The lists that `N` nodes have, of which `K` differ.

    codes:   `[N]` int64, which list a node has; -1: none.
    items:   entries of the `K` lists, one list after the other.
    offsets: `[K + 2]` int64, where each begins in `items`; an empty one stands last, for nodes without any.
    """

    codes: np.ndarray
    items: list[Any]
    offsets: np.ndarray

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The entries of some nodes' lists.

        Returns:
            places: `[E]` int64 in `items`, node after node.
            counts: `[R]` int64, entries of each node.
        """
        codes = self.codes[rows]
        counts = np.diff(self.offsets)[codes]
        return ranges(self.offsets[:-1][codes], counts), counts

    def known(self, rows: np.ndarray) -> np.ndarray:
        """`[R]` bool: the nodes that have a list, be it empty."""
        return self.codes[rows] >= 0


def read_lists(texts: pl.Series, read: Callable[[str], list[Any] | None], *, name: str, what: str) -> Lists:
    """Parse a column of texts.

    Args:
        texts: `[N]` strings; null: none.
        read: gives the entries of a text; None where it is not what it should be.
        name: of the column, of INPUTS. what: it should hold, for print.

    Raises:
        BadScore: a text cannot be read.
    """
    texts = texts.alias("text")
    distinct = texts.drop_nulls().unique(maintain_order=True)
    places = distinct.to_frame().with_row_index("code")
    found = texts.to_frame().join(places, on="text", how="left", maintain_order="left")["code"]
    codes = found.cast(pl.Int64).fill_null(-1).to_numpy()
    parsed = [read(text) for text in distinct.to_list()]
    if None in parsed:
        row = int(np.argmax(codes == parsed.index(None)))
        raise BadScore(
            f"scores {name}: {texts[row][:PRINTED]!r} is not {what}",
            remedy=INPUTS[name].remedy.replace("NAME", name),
            row=row,
        )
    return Lists(
        codes=codes,
        items=[entry for entries in parsed for entry in entries],
        offsets=np.cumsum([0, *map(len, parsed), 0], dtype=np.int64),
    )


def read_scores(trees: Trees, name: str, *, entry: Callable[[Any], bool], what: str) -> Lists:
    """Parse scores that are JSON lists.

    Args:
        trees: given `name`.
        entry: whether an entry of a list is as it should be.
        what: what the lists should be, for print.

    Raises:
        BadScore: a text is no such list.
    """

    def read(text: str) -> list[Any] | None:
        found = parse(text)
        return found if isinstance(found, list) and all(map(entry, found)) else None

    return read_lists(trees.given[name], read, name=name, what=what)


def parse(text: str) -> Any:
    """What JSON text says; None where it cannot be read."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def one_of(trees: Trees, name: str, allowed: tuple[float, ...] = (0.0, 1.0)) -> np.ndarray:
    """`[N]` float64: scores that can only have some values; NaN: none.

    Raises:
        BadScore: one has another.
    """
    values = trees.given[name]
    refuse(values, np.isnan(values) | np.isin(values, allowed), name=name, what=f"one of {allowed}")
    return values


def refuse(values: np.ndarray, good: np.ndarray, *, name: str, what: str) -> None:
    """Raise for the first of some scores that is not good.

    Args:
        values: `[N]`, an entry a node.
        good: `[N]` bool.
        name: of the scores. what: they should be, for print.

    Raises:
        BadScore: there is one.
    """
    if not good.all():
        row = int(np.argmin(good))
        raise BadScore(
            f"scores {name}: {values[row]:g} is not {what}", remedy=INPUTS[name].remedy.replace("NAME", name), row=row
        )
