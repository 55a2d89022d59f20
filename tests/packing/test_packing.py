"""Packs: every token of every row is there once, and sees its own path alone."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from pipeline.builders.packing import Forecast, Rows, as_rows, forecast, pack_nodes, pack_rows
from pipeline.errors import BadInput


def test_two_trees():
    #  tree 0:  1 2 ─┬─ 3 4        tree 1:  1 2
    #                └─ 5
    rows = [[1, 2], [1, 2, 5], [1, 2, 3, 4], [1, 2, 5]]
    (pack,) = pack_rows(rows, groups=np.array([1, 0, 0, 0]))
    assert pack.token_ids.tolist() == [1, 2, 3, 4, 5, 1, 2]
    assert pack.positions.tolist() == [0, 1, 2, 3, 2, 0, 1]
    assert pack.last.tolist() == [4, 4, 3, 3, 4, 6, 6]
    assert pack.parent.tolist() == [-1, 0, 1, 2, 1, -1, 5]
    assert pack.rows.tolist() == [2, 1, 3, 0]
    assert pack.offsets.tolist() == [0, 4, 7, 10, 12]
    assert pack.index.tolist() == [0, 1, 2, 3, 0, 1, 4, 0, 1, 4, 5, 6]
    assert pack.sum_over_branches(np.ones(12)).tolist() == [3, 3, 1, 1, 2, 1, 1]
    values, offsets = np.arange(12), np.array([0, 2, 5, 9, 12])
    assert pack.gather(values, offsets).tolist() == [5, 6, 7, 8, 2, 3, 4, 9, 10, 11, 0, 1]
    assert forecast([pack]) == Forecast(12, 7, 1)


def drawn(seed: int) -> tuple[list[list[int]], np.ndarray, np.ndarray]:
    """Rows of some groups that often agree, an even number in each, with units of two."""
    rng = np.random.default_rng(seed)
    rows, groups = [], []
    for group in range(rng.integers(1, 5)):
        known = [[7]]
        for _ in range(2 * rng.integers(1, 6)):
            start = known[rng.integers(len(known))]
            rows.append(start[: rng.integers(1, len(start) + 1)] + rng.integers(0, 3, rng.integers(1, 7)).tolist())
            known.append(rows[-1])
            groups.append(group)
    mixed = rng.permutation(len(rows))
    return [rows[row] for row in mixed], np.array(groups)[mixed], np.arange(len(rows))[mixed] // 2


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_random_trees(seed: int, paired: bool):
    rows, groups, units = drawn(seed)
    cap = 60
    packs = pack_rows(rows, max_tokens=cap, groups=groups, units=units if paired else None)
    assert sorted(np.concatenate([pack.rows for pack in packs]).tolist()) == list(range(len(rows)))
    for pack in packs:
        assert len(pack) <= cap
        prefixes = set()
        for row, start, end in zip(pack.rows, pack.offsets, pack.offsets[1:]):
            index = pack.index[start:end].tolist()
            assert pack.token_ids[index].tolist() == rows[row]
            assert pack.positions[index].tolist() == list(range(len(index)))
            assert pack.parent[index].tolist() == [-1, *index[:-1]]
            for query in index:
                attended = [key for key in range(len(pack)) if key <= query <= pack.last[key]]
                assert attended == [key for key in index if key <= query]
            prefixes |= {(groups[row], *rows[row][:length]) for length in range(1, len(index) + 1)}
        assert len(prefixes) == len(pack), "each unique token stands once"
        if paired:
            assert (np.unique(units[pack.rows], return_counts=True)[1] == 2).all()


def test_a_large_tree_is_cut_where_least_is_repeated():
    trunk, boughs = [1] * 4, [[2] * 6, [3] * 6]
    rows = [trunk + bough + [leaf] * 3 for bough in boughs for leaf in (4, 5)]
    whole, (left, right) = pack_rows(rows), pack_rows(rows, max_tokens=20)
    assert forecast(whole).unique == 4 + 2 * (6 + 2 * 3)
    assert [pack.rows.tolist() for pack in (left, right)] == [[0, 1], [2, 3]]
    assert str(forecast([left, right])) == "52 path tokens, 32 unique, 1.6x, 2 packs"


def test_units_a_pack():
    rows = [[1, number] for number in range(7)]
    packs = pack_rows(rows, max_units=3)
    assert [len(pack.rows) for pack in packs] == [3, 3, 1]


def test_a_row_that_cannot_stand():
    with pytest.raises(BadInput, match="5 tokens, a pack takes 4"):
        pack_rows([[1, 2, 3], [1, 2, 4, 5]], max_tokens=4, units=np.array([0, 0]))
    with pytest.raises(BadInput, match="row 1 has no tokens"):
        pack_rows([[1], []])
    assert pack_rows([]) == []


@pytest.mark.parametrize(
    "column",
    [
        pytest.param([[3, 1], [], [2]], id="lists"),
        pytest.param(pl.Series([[9], [3, 1], [], [2]], dtype=pl.List(pl.Int32))[1:], id="polars, sliced"),
        pytest.param(pa.chunked_array([[[3, 1], []], [[2]]], pa.list_(pa.int32())), id="arrow, chunked"),
        pytest.param(pa.array([[3, 1], [], [2]], pa.large_list(pa.int32())), id="arrow, large"),
    ],
)
def test_columns(column):
    rows = as_rows(column)
    assert isinstance(rows, Rows)
    assert (rows.values.tolist(), rows.offsets.tolist(), rows.values.dtype) == ([3, 1, 2], [0, 2, 2, 3], np.int32)


def test_nodes_of_a_store():
    nodes = pl.DataFrame(
        {
            "tree": ["a", "a", "a", "b"],
            "node": [0, 1, 2, 0],
            "parent": [None, 0, 0, None],
            "context": [0, 0, 0, 0],
            "depth": [0, 1, 1, 0],
            "token_ids": [[1, 2], [3, 4], [3, 5], [1, 2]],
        },
        schema_overrides={"token_ids": pl.List(pl.Int32), **dict.fromkeys(("node", "parent", "context"), pl.Int32)},
    )
    (pack,) = pack_nodes(nodes, np.array([1, 2, 3]))
    assert pack.token_ids.tolist() == [1, 2, 3, 4, 5, 1, 2]
    assert pack.positions.tolist() == [0, 1, 2, 3, 3, 0, 1]
