"""MALT: values, labels, rows and pairs of a tree of roles."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_trees import NA, labelled_trees
from spoken_trees import credited, spoken_trees

from pipeline.builders.malt import ROLES, by_role, depth_first, good_rows, pair_row, sft_row, sibling_pairs
from pipeline.credit.malt import MaltParams, node_labels
from pipeline.credit.spo_tree import node_values
from pipeline.errors import BadConfig

SYSTEMS = {"generator": "Solve.", "verifier": "Check.", "refiner": "Refine."}


def full_tree(rewards, n):
    """A tree of three levels of `n` children each, level by level."""
    parent = [-1, *[0] * n, *np.repeat(np.arange(1, n + 1), n), *np.repeat(np.arange(n + 1, n + n * n + 1), n)]
    return labelled_trees(parent, [NA] * (1 + n + n * n) + list(rewards))


def labels_of(trees, **params):
    return node_labels(trees, node_values(trees), MaltParams(**params))


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.integers(0, 1), min_size=n**3, max_size=n**3)))
@settings(max_examples=50, deadline=None)
def test_a_generator_is_worth_the_mean_of_its_leaves(rewards):
    n = round(len(rewards) ** (1 / 3))
    trees = full_tree(rewards, n)
    of_leaves = np.array(rewards).reshape(n, -1)
    np.testing.assert_allclose(node_values(trees)[1 : n + 1], of_leaves.mean(axis=1), atol=1e-12)
    exact = [Fraction(int(row.sum()), row.size) > Fraction(1, 2) for row in of_leaves]
    assert labels_of(trees)[1 : n + 1].tolist() == exact


def test_exactly_half_is_not_good():
    trees = labelled_trees([-1, 0, *[1] * 6], [NA, NA, 1, 1, 1, 0, 0, 0])
    assert labels_of(trees)[1] == 0
    assert labels_of(trees, comparison="greater or equal")[1] == 1
    assert labels_of(trees, threshold=0.4)[1] == 1


def test_a_leaf_is_labelled_by_its_reward():
    trees = labelled_trees([-1, 0, 0, 0], [NA, 1, 0, NA])
    np.testing.assert_array_equal(labels_of(trees, threshold=1.0), [0, 1, 0, NA])
    np.testing.assert_array_equal(labels_of(trees, threshold=-1.0), [1, 1, 0, NA])


#        0
#    1       5        generators; the second was never verified
#  2   4              verifiers; the second was never refined
#  3
def test_failed_calls_stay_unknown():
    trees = spoken_trees([-1, 0, 1, 2, 1, 0], [NA, NA, NA, 1, NA, NA])
    found = credited("malt", trees)
    np.testing.assert_array_equal(found.value, [1, 1, 1, 1, NA, NA])
    np.testing.assert_array_equal(found.advantage, [0, 1, 1, 1, NA, NA])
    assert found.mask.tolist() == [False, True, True, True, False, False]
    assert sibling_pairs(trees, labels_of(trees)).tolist() == []
    assert good_rows(trees, labels_of(trees)).tolist() == [1, 2, 3]


#        0
#        1           a generator
#        2           the verifier's prompt, rendered
#      3   4         verifiers, each of them refined
#    5 6   7 8
def test_what_a_role_is_shown_is_not_imitated():
    trees = spoken_trees([-1, 0, 1, 2, 2, 3, 3, 4, 4], [NA] * 5 + [1, 1, 0, 1], rendered=[2])
    found = credited("malt", trees)
    assert found.value.tolist() == [3 / 4, 3 / 4, 3 / 4, 1, 1 / 2, 1, 1, 0, 1]
    assert found.advantage.tolist() == [0, 1, 0, 1, 0, 1, 1, 0, 1]
    assert found.mask.tolist() == [False, True, False, True, False, True, True, False, True]
    assert credited("malt", trees, comparison="greater or equal").advantage[4] == 1


@pytest.mark.parametrize("reward", [0, 1])
def test_equal_siblings_give_no_pairs(reward):
    trees = full_tree([reward] * 8, 2)
    assert len(sibling_pairs(trees, labels_of(trees))) == 0
    assert len(good_rows(trees, labels_of(trees))) == 14 * reward


def test_any_list_of_roles():
    trees = labelled_trees([-1, 0, 1, 2, 3, 3], [NA, NA, NA, NA, 1, 0])
    assert node_values(trees)[:4].tolist() == [0.5] * 4
    pairs = sibling_pairs(trees, labels_of(trees))
    assert pairs.tolist() == [[4, 5]]
    own = dict(by_role(trees.depth[pairs[:, 0]], ("a", "b", "c", "d")))
    assert [role for role in own if own[role].any()] == ["d"]


TREES = st.lists(st.integers(0, 30), min_size=1, max_size=25).flatmap(
    lambda steps: st.tuples(st.just(steps), st.lists(st.sampled_from([0, 1, NA]), min_size=25, max_size=25))
)


def grow(steps, labels):
    """A forest whose every node hangs below an earlier one; one of 0 begins a tree."""
    parent, tree = [], []
    for row, step in enumerate(steps):
        above = -1 if row == 0 or step == 0 else (step * 7) % row
        parent.append(above)
        tree.append(max(tree, default=-1) + 1 if above < 0 else tree[above])
    return labelled_trees(parent, [NA] * len(parent), tree=tree), np.array(labels[: len(parent)], float)


def walk(trees):
    children = {row: [] for row in range(-1, len(trees.parent))}
    for row, above in enumerate(trees.parent.tolist()):
        children[above].append(row)

    def below(row):
        return [row, *[node for child in children[row] for node in below(child)]]

    return [node for root in children[-1] for node in below(root)], children


@given(TREES, st.sampled_from([None, 1, 3]))
@settings(max_examples=80, deadline=None)
def test_pairs_and_order_against_their_definition(drawn, most):
    trees, labels = grow(*drawn)
    order, children = walk(trees)
    assert np.argsort(depth_first(trees)).tolist() == order
    expected = []
    for parent in order:
        own = [
            [good, bad]
            for good in children[parent]
            for bad in children[parent]
            if labels[good] == 1 and labels[bad] == 0
        ]
        expected += own[:most]
    assert sibling_pairs(trees, labels, max_pairs_per_parent=most).tolist() == expected
    assert good_rows(trees, labels).tolist() == [row for row in order if labels[row] == 1 and trees.parent[row] >= 0]


def test_rows_share_their_context():
    trees = full_tree([1, 0, 1, 1, 0, 0, 0, 1], 2)
    texts, values, labels = [f"t{row}" for row in range(15)], node_values(trees), labels_of(trees)
    named = {"roles": ROLES, "systems": SYSTEMS}
    verifiers, refiners = (
        [pair for pair in sibling_pairs(trees, labels).tolist() if trees.depth[pair[0]] == depth] for depth in (2, 3)
    )
    row = pair_row(trees, texts, refiners[0], values=values, **named)
    assert row == {
        **{"role": "refiner", "system": "Refine.", "context": ["t0", "t1", "t3"]},
        **{"chosen_node": 7, "rejected_node": 8, "chosen": "t7", "rejected": "t8", "margin": 1.0},
    }
    assert pair_row(trees, texts, verifiers[0], values=values, **named)["margin"] == 0.5
    assert sft_row(trees, texts, 1, **named) == {
        **{"role": "generator", "system": "Solve.", "context": ["t0"], "node": 1, "completion": "t1"}
    }
    for pair in refiners + verifiers:
        good, bad = (sft_row(trees, texts, row, **named) for row in pair)
        assert (good["role"], good["system"], good["context"]) == (bad["role"], bad["system"], bad["context"])
        assert (labels[pair[0]], labels[pair[1]]) == (1, 0)


def test_unknown_comparison():
    with pytest.raises(BadConfig, match="strictly greater"):
        MaltParams(comparison="greater")
