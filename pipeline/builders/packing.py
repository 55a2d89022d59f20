"""Packs: rows of token ids laid out so that what they begin with in common stands once.

The rows of a group (a tree, a task) are merged where they agree from their first token on, and written in preorder:
a token after the one it follows, and all that follows it before its next sibling. A query attends a key of its own
path alone, which is `key <= query <= last[key]`. Several groups fill a pack; a group that does not fit is cut at a
node, and both parts have the path to it. Every row stands in one pack whole, so nothing is counted twice.

numpy alone. Knows no model and no objective.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline.errors import BadInput

if TYPE_CHECKING:
    import polars as pl

MAX_TOKENS = 8192
"""Of a pack, where the caller says nothing."""


class Rows(NamedTuple):
    """`R` rows of token ids. values: `[T]` int32, row after row. offsets: `[R + 1]` int64, where each begins."""

    values: np.ndarray
    offsets: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """`T` unique tokens in preorder, of `R` rows.

    token_ids: `[T]` int32.
    positions: `[T]` int32, place in the row, from 0 at each root.
    last:      `[T]` int32, index of the last token that follows this one on any path; its own where none does.
    parent:    `[T]` int32, index of the token before it on its path; -1 at a root.
    rows:      `[R]` int64, which of the given rows are here, in the order of `index`.
    offsets:   `[R + 1]` int64, where each row begins in `index`.
    index:     `[P]` int32, row after row: the index in the pack of each of its tokens.
    """

    token_ids: np.ndarray
    positions: np.ndarray
    last: np.ndarray
    parent: np.ndarray
    rows: np.ndarray
    offsets: np.ndarray
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.token_ids)

    def row_of(self) -> np.ndarray:
        """`[P]` int64: which of the pack's rows, from 0, each entry of `index` belongs to."""
        return np.repeat(np.arange(len(self.rows)), np.diff(self.offsets))

    def gather(self, values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """`[P]`: numbers of all given rows' tokens, a row after the other, cut to the rows here in their order."""
        return values[spans(offsets[self.rows], np.diff(self.offsets))]

    def sum_over_branches(self, values: np.ndarray) -> np.ndarray:
        """`[T]` float64: `[P]` numbers of rows' tokens summed over the rows that a token stands for."""
        return np.bincount(self.index, weights=values, minlength=len(self))


class Forecast(NamedTuple):
    """What packing saves, counted after large groups are cut. path_tokens: of all rows; unique: of all packs."""

    path_tokens: int
    unique: int
    packs: int

    @property
    def ratio(self) -> float:
        """Tokens computed for rows apart over those in packs."""
        return self.path_tokens / max(1, self.unique)

    def __str__(self) -> str:
        packs = f"{self.packs:,} pack{'' if self.packs == 1 else 's'}"
        return f"{self.path_tokens:,} path tokens, {self.unique:,} unique, {self.ratio:.1f}x, {packs}"


def forecast(packs: Iterable[Pack]) -> Forecast:
    """Tokens of rows and of packs."""
    counts = np.array([(len(pack.index), len(pack), 1) for pack in packs], np.int64).reshape(-1, 3)
    return Forecast(*map(int, counts.sum(axis=0)))


def pack_rows(
    rows: Any,
    *,
    max_tokens: int = MAX_TOKENS,
    groups: np.ndarray | None = None,
    units: np.ndarray | None = None,
    max_units: int | None = None,
) -> list[Pack]:
    """Lay rows out in packs.

    Args:
        rows: `[R]` lists of token ids: `Rows`, an Arrow or polars list column, or sequences; none empty.
        max_tokens: of a pack.
        groups: `[R]` int. Rows of one group alone are merged; packs take groups in the order of their numbers, so who
            shuffles the numbers shuffles the packs. None: all rows are one group.
        units: `[R]` int. The rows of a unit come into the same pack, as must both answers of a preference pair; they
            must be of one group. None: each row is its own.
        max_units: of a pack. None: any number.

    Returns:
        Packs that hold every row once, those of a group next to each other.

    Raises:
        BadInput: a row is empty, or a unit does not fit into a pack; names it.
    """
    rows = as_rows(rows)
    count = len(rows.offsets) - 1
    if not count:
        return []
    lengths = np.diff(rows.offsets)
    if not lengths.all():
        raise BadInput(f"row {int(np.argmin(lengths))} has no tokens", remedy="leave rows without tokens out")
    groups = np.zeros(count, np.int64) if groups is None else np.asarray(groups, np.int64)
    units = np.arange(count) if units is None else np.unique(units, return_inverse=True)[1]
    order, shared = _sorted(rows, groups)
    plan = _Plan(lengths[order], shared, units[order])
    return [_laid_out(rows, order[places], kept) for places, kept in plan.cut(max_tokens, max_units)]


def pack_nodes(nodes: pl.DataFrame, leaves: np.ndarray, *, max_tokens: int = MAX_TOKENS) -> list[Pack]:
    """Lay out the whole contexts of leaves, tree by tree; rows are the leaves.

    Args:
        nodes: `pipeline.store.paths.COLUMNS` of whole trees, sorted by tree and node: parents come first.
        leaves: `[R]` rows of `nodes`; any node may stand for a leaf.
        max_tokens: of a pack.

    Raises:
        BadInput: a context does not fit into a pack.
        ValueError: a parent or a context is missing, or the nodes are not sorted.
    """
    from pipeline.store.paths import path_token_ids

    trees = np.unique(nodes["tree"].to_numpy(), return_inverse=True)[1]
    return pack_rows(path_token_ids(nodes, leaves), max_tokens=max_tokens, groups=trees[leaves])


def as_rows(rows: Any) -> Rows:
    """Lists of token ids as two arrays; Arrow and polars columns without a copy of each list."""
    if isinstance(rows, Rows):
        return rows
    arrow = rows.rechunk().to_arrow() if hasattr(rows, "rechunk") else rows
    if hasattr(arrow, "combine_chunks"):
        arrow = arrow.combine_chunks()
    if hasattr(arrow, "flatten") and hasattr(arrow, "value_lengths"):
        lengths = np.asarray(arrow.value_lengths().to_numpy(zero_copy_only=False), np.int64)
        values = arrow.flatten().to_numpy(zero_copy_only=False)
    else:
        lengths = np.fromiter(map(len, rows), np.int64)
        values = np.concatenate([np.asarray(row, np.int32) for row in rows]) if len(lengths) else np.empty(0)
    return Rows(np.ascontiguousarray(values, np.int32), np.concatenate(([0], np.cumsum(lengths))))


def spans(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """`[sum of lengths]` int64: from each start so many whole numbers, one span after the other."""
    before = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


def _sorted(rows: Rows, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows by group and then token by token, a row before its extensions; tokens each has in common with the one
    before it, 0 for the first of a group."""
    values = rows.values.astype(">u4").tobytes()
    cuts = (4 * rows.offsets).tolist()
    keys = [values[start:end] for start, end in pairwise(cuts)]
    numbers = groups.tolist()
    order = np.array(sorted(range(len(keys)), key=lambda row: (numbers[row], keys[row])), np.int64)
    lengths = np.diff(rows.offsets)[order]
    both = np.minimum(lengths[1:], lengths[:-1])
    starts = rows.offsets[order]
    differ = rows.values[spans(starts[1:], both)] != rows.values[spans(starts[:-1], both)]
    ends = np.cumsum(both)
    place = np.append(np.flatnonzero(differ), len(differ))
    common = np.minimum(place[np.searchsorted(place, ends - both)] - (ends - both), both)
    return order, np.concatenate(([0], np.where(np.diff(groups[order]), 0, common))).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """Rows in their sorted order: `[R]` lengths, tokens shared with the row before, and units."""

    lengths: np.ndarray
    shared: np.ndarray
    units: np.ndarray

    def cut(self, max_tokens: int, max_units: int | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Of each pack the places of its rows, and the tokens that each shares with the one before it there.

        A pack takes units in the order of their first rows as long as they fit. Where not all of them do, it ends
        at the unit that has least in common with what stands before, of those that leave it half full.
        """
        first = np.unique(self.units, return_index=True)[1]
        rank = np.argsort(np.argsort(first))[self.units]
        members, count = np.argsort(rank, kind="stable"), len(first)
        bounds = np.searchsorted(rank[members], np.arange(count + 1))
        seam = self.shared[np.sort(first)]
        start, most = 0, count if max_units is None else max_units
        while start < count:
            places, kept = self._taken(members, bounds, start, start + 1)
            if (size := self._size(places, kept)) > max_tokens:
                raise BadInput(
                    f"what must stand in one pack has {size:,} tokens, a pack takes {max_tokens:,}",
                    remedy="raise max_tokens, or leave out longer rows",
                )
            limit = min(count, start + most)
            end = self._furthest(members, bounds, start, limit, max_tokens)
            if end < limit:
                half = self._furthest(members, bounds, start, end, max_tokens // 2)
                cuts = seam[half + 1 : end + 1] if half < end else seam[end : end + 1]
                end = end - int(np.argmin(cuts[::-1]))
            yield self._taken(members, bounds, start, end)
            start = end

    def _furthest(self, members: np.ndarray, bounds: np.ndarray, start: int, limit: int, most: int) -> int:
        """The most units from `start` that fit, at least one, as where they end; doubling, then halving."""
        low, high, step = start + 1, limit, 1
        while low < limit:
            tried = min(low + step, limit)
            if self._size(*self._taken(members, bounds, start, tried)) > most:
                high = tried - 1
                break
            low, step = tried, 2 * step
        while low < high:
            tried = (low + high + 1) // 2
            if self._size(*self._taken(members, bounds, start, tried)) > most:
                high = tried - 1
            else:
                low = tried
        return low

    def _taken(self, members: np.ndarray, bounds: np.ndarray, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Places of the rows of these units, and what each shares with the one before it among them: the least that
        any two neighbours between them share."""
        places = np.sort(members[bounds[start] : bounds[end]])
        if len(places) == 1:
            return places, np.zeros(1, np.int64)
        between = np.minimum.reduceat(self.shared, places[:-1] + 1)
        ends = self.shared[places[-2] + 1 : places[-1] + 1].min()
        return places, np.concatenate(([0], between[:-1], [ends]))

    def _size(self, places: np.ndarray, kept: np.ndarray) -> int:
        return int((self.lengths[places] - kept).sum())


def _laid_out(rows: Rows, order: np.ndarray, shared: np.ndarray) -> Pack:
    """The pack of rows that are sorted, given what each shares with the one before it."""
    lengths = rows.offsets[order + 1] - rows.offsets[order]
    own = lengths - shared
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    ends = np.cumsum(own)
    index = spans(ends - lengths, lengths).astype(np.int32)  # right where a row's own tokens stand
    parent = np.arange(-1, ends[-1] - 1, dtype=np.int32)
    for row in range(len(order)):
        start, common = offsets[row], shared[row]
        if common:
            index[start : start + common] = index[offsets[row - 1] : offsets[row - 1] + common]
        if own[row]:
            parent[ends[row] - own[row]] = index[start + common - 1] if common else -1
    final = np.repeat(index[offsets[1:] - 1], lengths)
    last = np.zeros(ends[-1], np.int32)
    np.maximum.at(last, index, final)
    return Pack(
        token_ids=rows.values[spans(rows.offsets[order] + shared, own)],
        positions=spans(shared, own).astype(np.int32),
        last=last,
        parent=parent,
        rows=order,
        offsets=offsets,
        index=index,
    )
