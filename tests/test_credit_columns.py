"""The arrays credit methods work on, and the way from and to tables."""

import numpy as np
import polars as pl
import pytest

from pipeline.credit.columns import CreditColumns, Trees, moments
from pipeline.credit.tables import credit_frame, trees_from_nodes
from pipeline.errors import BadTable
from schemas import Credit

NA = float("nan")


def build(*, parent, depth, tree, tokens) -> Trees:
    """Trees without a verdict; `tokens` counts those of each node."""
    return Trees(
        parent=np.array(parent, np.int32),
        depth=np.array(depth, np.int32),
        tree=np.array(tree, np.int32),
        reward=np.full(len(parent), NA),
        tokens=np.zeros(sum(tokens), np.int32),
        token_offsets=np.cumsum([0, *tokens], dtype=np.int64),
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        pytest.param({"parent": (-1, 2, 0)}, "row 1: its parent must stand before", id="parent after child"),
        pytest.param({"depth": (0, 1, 2)}, "row 2: its depth", id="depth skips a step"),
        pytest.param({"depth": (1, 2, 2)}, "row 0: a root has depth 0", id="deep root"),
        pytest.param({"tree": (0, 0, 1)}, "row 2: its parent belongs to another", id="two trees"),
        pytest.param({"parent": (-1, -1, 0), "depth": (0, 0, 1)}, "row 1: its tree has a root", id="two roots"),
        pytest.param({"reward": (NA, NA, np.inf)}, "row 2: its reward", id="endless reward"),
        pytest.param({"reward": (1, NA, NA)}, "row 0: has a verdict and children", id="judged inner node"),
        pytest.param({"token_offsets": (0, 2, 1, 3)}, "row 1: ends before it begins", id="offsets fall"),
        pytest.param({"token_offsets": (0, 1, 2, 4)}, "must run from 0 to the 3 tokens", id="offsets too far"),
        pytest.param({"reward": (NA, NA)}, "reward has 2 rows", id="lengths differ"),
    ],
)
def test_trees_check_their_shape(change, why):
    good = {
        "parent": (-1, 0, 0),
        "depth": (0, 1, 1),
        "tree": (0, 0, 0),
        "reward": (NA, 1, 0),
        "tokens": (1, 2, 3),
        "token_offsets": (0, 1, 2, 3),
    }
    Trees(**{name: np.array(value) for name, value in good.items()})
    with pytest.raises(ValueError, match=why):
        Trees(**{name: np.array(value) for name, value in (good | change).items()})


def test_deepest_first_leaves_out_roots():
    trees = build(parent=(-1, 0, 1, 0, -1, 4), depth=(0, 1, 2, 1, 0, 1), tree=(0, 0, 0, 0, 1, 1), tokens=[1] * 6)
    assert [rows.tolist() for rows in trees.deepest_first()] == [[2], [1, 3, 5]]
    assert trees.leaves().tolist() == [False, False, True, True, False, True]


def test_paths_leave_out_roots():
    trees = build(parent=(-1, 0, 1, 0), depth=(0, 1, 2, 1), tree=[0] * 4, tokens=(1, 2, 1, 1))
    paths = trees.paths(np.array([2, 0, 3]))
    assert paths.nodes.tolist() == [1, 2, 3]
    assert paths.members().tolist() == [0, 0, 2]
    assert paths.token_counts(trees).tolist() == [3, 0, 1]


def test_moments_of_groups():
    of = moments(np.array([0.0, 1.0, 0.1, 0.1, 0.1, 0.5]), np.array([0, 0, 1, 1, 1, 3]), count=4, ddof=1)
    assert of.count.tolist() == [2, 3, 0, 1]
    np.testing.assert_allclose(of.mean, (0.5, 0.1, NA, 0.5))
    np.testing.assert_allclose(of.std, (np.sqrt(0.5), 0, NA, NA))
    assert of.centred.tolist() == [-0.5, 0.5, 0, 0, 0, 0]


def node_rows() -> pl.DataFrame:
    """Two trees; node 2 of the first is not among those kept."""
    return pl.DataFrame(
        {
            "task": ["a", "a", "a", "b", "b"],
            "tree": ["a.0", "a.0", "a.0", "b.0", "b.0"],
            "node": [0, 1, 3, 0, 1],
            "parent": [None, 0, 1, None, 0],
            "depth": [0, 1, 2, 0, 1],
            "kind": ["prompt", "step", "step", "prompt", "step"],
            "token_ids": [[9, 9], [], [1, 2], [8], [3]],
        },
        schema_overrides={
            "node": pl.Int32,
            "parent": pl.Int32,
            "depth": pl.Int32,
            "token_ids": pl.List(pl.Int32),
        },
    )


def reward_frame() -> pl.DataFrame:
    rows = {"tree": ["b.0", "a.0", "a.0"], "node": [1, 2, 3], "reward": [None, 0.0, 1.0]}
    return pl.DataFrame(rows, schema_overrides={"node": pl.Int32, "reward": pl.Float32})


def test_trees_from_nodes_keep_the_rows():
    trees = trees_from_nodes(node_rows(), reward_frame())
    assert trees.parent.tolist() == [-1, 0, 1, -1, 3]
    assert trees.tree.tolist() == [0, 0, 0, 1, 1]
    assert trees.tokens.tolist() == [9, 9, 1, 2, 8, 3]
    assert trees.token_offsets.tolist() == [0, 2, 2, 4, 5, 6]
    np.testing.assert_array_equal(trees.reward, (NA, NA, 1, NA, NA))
    assert (trees.parent.dtype, trees.tokens.dtype, trees.reward.dtype) == (np.int32, np.int32, np.float64)
    part = trees_from_nodes(node_rows().slice(3), reward_frame())
    assert part.tokens.tolist() == [8, 3]
    assert len(trees_from_nodes(node_rows().clear(), reward_frame()).parent) == 0


@pytest.mark.parametrize("reward", [2.0, -1.0])
def test_a_stored_verdict_is_from_0_to_1(reward):
    verdicts = reward_frame().with_columns(reward=pl.Series([None, 0.0, reward], dtype=pl.Float32))
    with pytest.raises(BadTable, match=r"verdicts: tree a\.0, node 3: its reward is not in \[0, 1\]; "):
        trees_from_nodes(node_rows(), verdicts)


def test_trees_from_nodes_miss_a_parent():
    with pytest.raises(BadTable, match=r"nodes: tree a\.0, node 3: its parent 1 is not there; "):
        trees_from_nodes(node_rows().filter(pl.col("node") != 1), reward_frame())


def test_what_was_shown_earns_nothing():
    nodes = node_rows().with_columns(kind=pl.Series(["prompt", "prompt", "step", "prompt", "step"]))
    trees = trees_from_nodes(nodes, reward_frame())
    columns = CreditColumns(advantage=np.full(5, 0.5), token_advantages=np.full(6, 0.25))
    frame = credit_frame(nodes, trees, columns, "tempo")
    assert frame["advantage"].to_list() == [0.5, 0.0, 0.5, 0.5, 0.5]
    assert frame["token_advantages"].is_null().to_list() == [False, True, False, False, False]


def test_credit_frame_is_the_credit_table_with_null_for_unknown():
    nodes = node_rows()
    trees = trees_from_nodes(nodes, reward_frame())
    columns = CreditColumns(
        value=np.array([1, NA, np.inf, 0, 0.5]),
        advantage=np.array([0, 1e300, 0.5, 0, NA]),
        token_advantages=np.array([0, 0, NA, 0.25, 0, NA]),
    )
    frame = Credit.validate(credit_frame(nodes, trees, columns, "tempo"))
    assert frame.columns == list(Credit.column_names())
    assert frame["value"].to_list() == [1, None, None, 0, 0.5]
    assert frame["advantage"].to_list() == [0, None, 0.5, 0, None]
    assert frame["token_advantages"].to_list() == [[0, 0], [], [None, 0.25], [0], None]
    assert frame["mask"].null_count() == frame["weight"].null_count() == 5
    assert frame["method"].unique().to_list() == ["tempo"]
