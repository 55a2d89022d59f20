"""TreePS-RAG against pictures and its guarantees; pruning against the plain rule."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.credit.columns import Trees
from pipeline.credit.treeps_rag import MODES, TreepsRagParams, prune_siblings, treeps_rag, treeps_rag_credit
from pipeline.errors import BadConfig

NA = float("nan")

#      0        the question
#    1   2      two searches
#   3 4 5 6 7   answers
PARENT = np.array([-1, 0, 0, 1, 1, 2, 2, 2])
DEPTH = np.array([0, 1, 1, 2, 2, 2, 2, 2])


def run(reward, *, pruned=(), **params):
    gone = np.isin(np.arange(8), pruned)
    rewards = np.array([NA, NA, NA, *reward])
    return treeps_rag(PARENT, DEPTH, reward=rewards, pruned=gone, params=TreepsRagParams(**params))


def test_value_is_the_mean_over_leaves_not_over_children():
    found = run((1, 0, 0, 0, 0.5), mode="local")
    np.testing.assert_allclose(found.value[:3], (0.3, 0.5, 1 / 6))
    assert found.leaves.tolist() == [5, 2, 3, 1, 1, 1, 1, 1]
    np.testing.assert_allclose(found.advantage[:5], (0, 0.2, 1 / 6 - 0.3, 0.5, -0.5))


@pytest.mark.parametrize(
    ("mode", "step", "leaf"),
    [("local", 0.2, 0.5), ("global", 0.2, 0.7), ("combined", 0.4, 1.2), ("combined_sqrt_leaves", 0.4 / 2**0.5, 1.2)],
)
def test_modes(mode, step, leaf):
    found = run((1, 0, 0, 0, 0.5), mode=mode)
    np.testing.assert_allclose(found.advantage[[1, 3]], (step, leaf))


def test_pruned_nodes_count_nowhere_and_have_nothing():
    found = run((1, 0, 0, 0, 0.5), pruned=(2, 4))
    np.testing.assert_allclose(found.value, (1, 1, NA, 1, NA, NA, NA, NA))
    np.testing.assert_allclose(found.advantage, (0, 0, NA, 0, NA, NA, NA, NA))
    assert found.leaves.tolist() == [1, 1, 0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("whiten", [False, True])
def test_equal_outcomes_are_exactly_nothing(mode, whiten):
    assert run((0.1,) * 5, mode=mode, whiten=whiten).advantage.tolist() == [0.0] * 8


def test_whitening_leaves_mean_0_and_deviation_1():
    plain, white = run((1, 0, 0, NA, 0.5)), run((1, 0, 0, NA, 0.5), whiten=True)
    known = ~np.isnan(plain.advantage) & (PARENT >= 0)
    steps = plain.advantage[known]
    np.testing.assert_allclose(white.advantage[known], (steps - steps.mean()) / (steps.std(ddof=1) + 1e-8))
    assert white.advantage[0] == 0
    assert np.isnan(white.advantage[6])


@st.composite
def forests(draw):
    count = draw(st.integers(1, 16))
    parent = [-1] + [draw(st.integers(-1, row - 1)) for row in range(1, count)]
    depth = []
    for above in parent:
        depth.append(0 if above < 0 else depth[above] + 1)
    reward = [draw(st.sampled_from([NA, 0.0, 0.3, 1.0])) for _ in range(count)]
    pruned = [draw(st.integers(0, 5)) == 0 for _ in range(count)]
    return np.array(parent), np.array(depth), np.array(reward), np.array(pruned)


@given(forests(), st.sampled_from(MODES))
@settings(max_examples=100, deadline=None)
def test_guarantees(forest, mode):
    parent, depth, reward, pruned = forest
    found = treeps_rag(parent, depth, reward=reward, pruned=pruned, params=TreepsRagParams(mode=mode))
    local = treeps_rag(parent, depth, reward=reward, pruned=pruned, params=TreepsRagParams(mode="local"))
    assert not np.isinf(found.advantage).any()
    for row in range(len(parent)):
        children = [child for child in np.flatnonzero(parent == row) if local.leaves[child]]
        if children:
            below = local.value[children]
            assert below.min() - 1e-9 <= local.value[row] <= below.max() + 1e-9
            np.testing.assert_allclose(local.advantage[children] @ local.leaves[children], 0, atol=1e-9)


@given(forests())
@settings(max_examples=40, deadline=None)
def test_trees_do_not_touch_each_other(forest):
    parent, depth, reward, pruned = forest
    alone = treeps_rag(parent, depth, reward=reward, pruned=pruned)
    beside = np.concatenate((parent, [-1, len(parent), len(parent)]))
    both = treeps_rag(
        beside,
        np.concatenate((depth, [0, 1, 1])),
        reward=np.concatenate((reward, [NA, 1, 0])),
        pruned=np.concatenate((pruned, [False] * 3)),
    )
    for one, other in zip(alone, both, strict=True):
        np.testing.assert_array_equal(one, other[: len(parent)])


def test_stored_trees():
    trees = Trees(
        parent=PARENT.astype(np.int32),
        depth=DEPTH.astype(np.int32),
        tree=np.zeros(8, np.int32),
        reward=np.array([NA, NA, NA, 1, 0, NA, NA, NA]),
        tokens=np.arange(8, dtype=np.int32),
        token_offsets=np.arange(9),
    )
    found = treeps_rag_credit(trees, TreepsRagParams(mode="local"))
    np.testing.assert_allclose(found.advantage, (0, 0, NA, 0.5, -0.5, NA, NA, NA))
    np.testing.assert_allclose(found.value, (0.5, 0.5, NA, 1, 0, NA, NA, NA))


# --- pruning


def prune(candidates, threshold, *, answers=()):
    """Candidates as pairs of parent and documents."""
    offsets = np.cumsum([0, *(len(documents) for _, documents in candidates)])
    return prune_siblings(
        np.array([parent for parent, _ in candidates], np.int64),
        np.array([code for _, documents in candidates for code in documents], np.int64),
        offsets,
        searches=~np.isin(np.arange(len(candidates)), answers),
        threshold=threshold,
    ).tolist()


@pytest.mark.parametrize(
    ("candidates", "threshold", "dropped"),
    [
        pytest.param([(0, [1, 2]), (0, [2, 1]), (1, [1, 2])], 1.0, [False, True, False], id="same set, other parent"),
        pytest.param([(0, [1, 2, 3]), (0, [1, 2, 4])], 0.5, [False, True], id="half is enough"),
        pytest.param([(0, [1, 2, 3]), (0, [1, 2, 4])], 0.51, [False, False], id="half is not enough"),
        pytest.param([(0, []), (0, []), (0, [1])], 1.0, [False, True, False], id="found nothing twice"),
        pytest.param([(0, [1, 1]), (0, [1])], 1.0, [False, True], id="a document twice is one"),
        pytest.param([(0, [1, 2]), (0, [1, 2, 3]), (0, [2, 3])], 0.6, [False, True, False], id="only kept ones count"),
        pytest.param([], 0.5, [], id="no candidates"),
    ],
)
def test_prune(candidates, threshold, dropped):
    assert prune(candidates, threshold) == dropped


def test_answers_stay():
    assert prune([(0, []), (0, []), (0, [])], 1.0, answers=(0, 1)) == [False] * 3


@given(
    st.lists(st.tuples(st.integers(0, 2), st.lists(st.integers(0, 3), max_size=4)), min_size=1, max_size=9),
    st.sampled_from([0.3, 0.5, 1.0]),
)
@settings(max_examples=80, deadline=None)
def test_pruning_is_the_plain_rule(candidates, threshold):
    dropped, kept = prune(candidates, threshold), {}
    for (parent, documents), gone in zip(candidates, dropped, strict=True):
        own = set(documents)
        near = [len(own & other) / len(own | other) if own | other else 1.0 for other in kept.get(parent, [])]
        assert gone == any(overlap >= threshold for overlap in near)
        if not gone:
            kept.setdefault(parent, []).append(own)
    assert set(kept) == {parent for parent, _ in candidates}


def test_bad_parameters_are_named():
    with pytest.raises(BadConfig, match="locale"):
        TreepsRagParams(mode="locale")
    with pytest.raises(BadConfig, match="threshold"):
        prune([(0, [1])], 0.0)
