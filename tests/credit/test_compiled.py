"""The compiled loops and their twins in numpy say the same, also of what is wrong."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from pipeline.credit import METHODS, compiled
from pipeline.credit.columns import BadTrees, Trees, moments
from pipeline.credit.group import CONVENTIONS, GroupParams, group_advantages, group_credit
from pipeline.credit.ragged import decayed_sums, prefix_sums, suffix_sums
from pipeline.credit.tables import trees_from_nodes
from pipeline.errors import BadTable

pytest.importorskip("numba")


def by_numpy(monkeypatch) -> None:
    monkeypatch.setattr(compiled, "FEWEST_ROWS", 2**62)


def by_numba(monkeypatch) -> None:
    monkeypatch.setattr(compiled, "FEWEST_ROWS", 0)


def drawn_trees(seed: int) -> Trees:
    """Trees of up to 30 nodes, some of one; leaves right, wrong, in between or unjudged; steps without tokens."""
    random = np.random.default_rng(seed)
    parent, depth, tree = [], [], []
    for number in range(40):
        first = len(parent)
        for node in range(random.integers(1, 30)):
            above = first + int(random.integers(node)) if node else -1
            parent.append(above)
            depth.append(depth[above] + 1 if node else 0)
            tree.append(number)
    leaf = np.ones(len(parent), bool)
    leaf[[above for above in parent if above >= 0]] = False
    reward = random.choice([0.0, 1 / 3, 1.0, np.nan], len(parent))
    reward[np.array(tree) % 5 == 0] = 0.1
    return Trees(
        parent=np.array(parent, np.int32),
        depth=np.array(depth, np.int32),
        tree=np.array(tree, np.int32),
        reward=np.where(leaf, reward, np.nan),
        tokens=None,
        token_offsets=np.concatenate(([0], np.cumsum(random.integers(0, 4, len(parent))))),
    )


def same(found, expected) -> None:
    np.testing.assert_allclose(np.asarray(found, float), np.asarray(expected, float), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_group_advantages(convention, seed, monkeypatch):
    trees, found = drawn_trees(seed), []
    for way in (by_numpy, by_numba):
        way(monkeypatch)
        found.append(group_credit(trees, GroupParams(convention)).advantage)
    same(*found)


@pytest.mark.parametrize("seed", range(3))
def test_tree_values(seed, monkeypatch):
    trees, found = drawn_trees(seed), []
    for way in (by_numpy, by_numba):
        way(monkeypatch)
        found.append(METHODS["spo_tree"].function(trees, METHODS["spo_tree"].params()))
    for column in ("value", "advantage", "mask"):
        same(*(getattr(said, column) for said in found))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("discount", [0.0, 0.95, 1.0])
def test_sums_along_rows(discount, seed, monkeypatch):
    random = np.random.default_rng(seed)
    offsets = np.concatenate(([0], np.cumsum(random.integers(0, 9, 50))))
    values, decay = random.normal(size=offsets[-1]), random.random(offsets[-1])
    values[random.random(len(values)) < 0.02] = np.nan
    found = []
    for way in (by_numpy, by_numba):
        way(monkeypatch)
        of = decayed_sums(values, decay, offsets), suffix_sums(values, offsets, discount=discount)
        found.append(np.concatenate((*of, prefix_sums(values, offsets))))
    same(*found)


@pytest.mark.parametrize("way", [by_numpy, by_numba])
class TestBothWays:
    def test_moments_leave_out_what_is_unknown(self, way, monkeypatch):
        way(monkeypatch)
        of = moments(np.array([1.0, np.nan, 3.0, 0.2, 0.2]), np.array([0, 0, 0, 2, 2]), count=3, ddof=1)
        same(of.count, (2, 0, 2))
        same(of.mean, (2, np.nan, 0.2))
        same(of.std, (np.sqrt(2), np.nan, 0))
        same(of.centred, (-1, np.nan, 1, 0, 0))

    def test_rewards_that_are_unknown_take_no_part(self, way, monkeypatch):
        way(monkeypatch)
        found = group_advantages(
            np.array([1.0, np.nan, 0.0]), np.zeros(3, int), lengths=None, params=GroupParams("dr_grpo_verl")
        )
        same(found, (0.5, np.nan, -0.5))

    def test_no_rows(self, way, monkeypatch):
        way(monkeypatch)
        nothing = np.zeros(0, np.int32)
        trees = Trees(nothing, nothing, nothing, np.zeros(0), None, np.zeros(1, np.int64))
        assert len(METHODS["spo_tree"].function(trees, METHODS["spo_tree"].params()).value) == 0
        assert len(group_credit(trees).advantage) == 0

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"parent": (-1, 2, 0)}, "row 1: its parent must stand before"),
            ({"parent": (-1, -2, 0)}, "row 1: its parent must stand before"),
            ({"depth": (0, 1, 2)}, "row 2: its depth"),
            ({"depth": (1, 2, 2)}, "row 0: a root has depth 0"),
            ({"tree": (0, 0, 1)}, "row 2: its parent belongs to another"),
            ({"tree": (-1, -1, -1)}, "row 0: its tree has a negative"),
            ({"parent": (-1, -1, 0), "depth": (0, 0, 1)}, "row 1: its tree has a root"),
            ({"reward": (np.nan, np.nan, np.inf)}, "row 2: its reward"),
            ({"reward": (1, np.nan, np.nan)}, "row 0: has a verdict and children"),
            ({"token_offsets": (0, 2, 1, 3)}, "row 1: ends before it begins"),
        ],
    )
    def test_trees_are_checked(self, way, change, why, monkeypatch):
        way(monkeypatch)
        good = {
            **{"parent": (-1, 0, 0), "depth": (0, 1, 1), "tree": (0, 0, 0), "reward": (np.nan, 1, 0)},
            **{"token_offsets": (0, 1, 2, 3)},
        }
        with pytest.raises(BadTrees, match=why):
            Trees(tokens=None, **{name: np.array(value) for name, value in (good | change).items()})

    def test_nodes_are_looked_up(self, way, monkeypatch):
        way(monkeypatch)
        nodes = pl.DataFrame(
            {"tree": ["a"] * 3 + ["b"] * 2, "node": [0, 2, 5, 0, 1], "parent": [None, 0, 2, None, 0]}
        ).with_columns(depth=pl.Series([0, 1, 2, 0, 1]), token_count=pl.lit(1))
        verdicts = pl.DataFrame({"tree": ["b", "c", "a"], "node": [1, 0, 5], "reward": [0.5, 1.0, 1.0]})
        trees = trees_from_nodes(nodes, verdicts, needs=())
        same(trees.parent, (-1, 0, 1, -1, 3))
        same(trees.reward, (np.nan, np.nan, 1, np.nan, 0.5))
        for number, why in ((1, "tree a, node 5: its parent 1 is not there"), (9, "tree a, node 5: its parent 9")):
            with pytest.raises(BadTable, match=why):
                trees_from_nodes(nodes.with_columns(parent=pl.Series([None, 0, number, None, 0])), verdicts, needs=())
        with pytest.raises(BadTable, match="tree a, node 0: does not come after the node before it"):
            trees_from_nodes(nodes.with_columns(node=pl.Series([0, 0, 5, 0, 1])), verdicts, needs=())


def test_a_group_that_is_not_there_is_no_write_beyond_the_end(monkeypatch):
    by_numba(monkeypatch)
    for group in (-1, 3):
        with pytest.raises(IndexError):
            moments(np.ones(2), np.array([0, group]), count=3, ddof=1)


def test_numba_waits_for_a_large_array():
    code = (
        "import sys; import pipeline.stages.credit; from pipeline.credit.columns import moments; import numpy as np; "
        "moments(np.ones(9), np.zeros(9, int), count=1, ddof=1); print('numba' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"
