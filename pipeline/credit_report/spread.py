"""How much does a step's credit depend on the attempts it happens to be compared to?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from pipeline.comparison.lines import Figure
from pipeline.credit.columns import ZERO
from pipeline.credit.tables import node_rows, parent_rows


class Resampled(NamedTuple):
    """Trees whose attempts were drawn with replacement, several times.

    nodes: `K` rows; trees have names of their own, nodes numbers of their own.
    row:   `[K]` int, the row that each is a copy of.
    draw:  `[K]` int, from 0, the draw it belongs to; those of a draw lie together.
    """

    nodes: pl.DataFrame
    row: np.ndarray
    draw: np.ndarray


def resample_attempts(nodes: pl.DataFrame, *, draws: int, seed: int) -> Resampled:
    """Draw the attempts of every tree with replacement, as many as there are.

    An attempt is a child of the root with all that hangs below it: branches go with the attempt they left. Each copy
    has nodes of its own, so a method sees a drawn pair as two attempts alike. Trees of one attempt are left out.

    Args:
        nodes: columns `tree`, `node`, `parent`; sorted by tree and node.
    """
    index = node_rows(nodes)
    parent = parent_rows(nodes, index)
    unit = np.arange(len(nodes))
    for row in np.flatnonzero(parent >= 0):
        if parent[parent[row]] >= 0:
            unit[row] = unit[parent[row]]
    trees = []
    for rows in np.split(np.arange(len(nodes)), np.flatnonzero(np.diff(index.code)) + 1):
        members = [rows[unit[rows] == attempt] for attempt in np.unique(unit[rows[parent[rows] >= 0]])]
        if len(members) > 1:
            trees.append((rows[parent[rows] < 0], members))
    generator = np.random.default_rng(seed)
    row, above, number, tree, draw = [], [], [], [], []
    position = np.zeros(len(nodes), np.int64)
    for one in range(draws):
        for place, (root, members) in enumerate(trees):
            start = 1
            row.append(root)
            above.append(np.array([-1]))
            for drawn in generator.integers(len(members), size=len(members)):
                copied = members[drawn]
                position[copied] = np.arange(start, start + len(copied))
                row.append(copied)
                above.append(np.append(0, position[parent[copied[1:]]]))
                start += len(copied)
            number.append(np.arange(start))
            tree.append(np.full(start, one * len(trees) + place))
            draw.append(np.full(start, one))
    rows, parents, numbers, codes, drawns = (
        np.concatenate(parts) if parts else np.array([], np.int64) for parts in (row, above, number, tree, draw)
    )
    copies = nodes[rows].with_columns(
        tree=pl.Series(codes).cast(pl.String),
        node=pl.Series(numbers, dtype=pl.Int32),
        parent=pl.select(pl.when(pl.Series(parents) >= 0).then(pl.Series(parents))).to_series().cast(pl.Int32),
    )
    return Resampled(copies, rows, drawns)


def resample_spread(advantage: np.ndarray, resampled: Resampled, stored: np.ndarray) -> Figure:
    """Mean standard deviation of a step's advantage over draws, by the root mean square of the stored ones.

    In a draw that has a step several times its mean counts. A step counts if it is credited in two draws or more.

    Args:
        advantage: `[K]` float64, of the resampled nodes; NaN: none.
        stored: `[N]` float, of the nodes that they are copies of; NaN: none.

    Returns:
        In units of the method. Null: no step counts, or all have 0.
    """
    known = ~np.isnan(advantage) & ~np.isnan(stored[resampled.row])
    draws = int(resampled.draw.max(initial=-1)) + 1
    cells, place = np.unique(resampled.row[known] * draws + resampled.draw[known], return_inverse=True)
    if not len(cells):
        return Figure(None, 0)
    mean = np.bincount(place, advantage[known]) / np.bincount(place)
    steps, step = np.unique(cells // draws, return_inverse=True)
    times = np.bincount(step)
    centred = mean - (np.bincount(step, mean) / times)[step]
    squares = np.bincount(step, centred**2)
    some = times > 1
    unit = float(np.sqrt(np.mean(stored[steps].astype(np.float64) ** 2)))
    if not some.any() or unit == 0:
        return Figure(None, int(some.sum()))
    moved = float(np.sqrt(squares[some] / (times[some] - 1)).mean() / unit)
    return Figure(moved if moved > ZERO else 0.0, int(some.sum()))
