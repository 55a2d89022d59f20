"""REINFORCE++: returns by their definition, whitened over the tokens of all tasks, on trees with observations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.credit import METHODS
from pipeline.credit.ragged import split
from pipeline.credit.reinforce_pp import ReinforcePPParams, reinforce_pp
from tests.labelled_trees import NA, labelled_trees

RESPONSES = st.lists(st.lists(st.floats(-1, 1, width=16), max_size=6), min_size=1, max_size=6)


def flat(rows) -> tuple[np.ndarray, np.ndarray]:
    """Rewards and offsets of responses."""
    return np.array([reward for row in rows for reward in row], np.float64), np.cumsum([0, *map(len, rows)])


def returns(rows, gamma: float) -> np.ndarray:
    """By definition, a token at a time."""
    found = [[sum(gamma**k * paid for k, paid in enumerate(row[at:])) for at in range(len(row))] for row in rows]
    return flat(found)[0]


@given(RESPONSES, st.sampled_from([0.0, 0.9, 1.0]))
@settings(max_examples=80, deadline=None)
def test_it_is_its_definition(rows, gamma):
    found, expected = reinforce_pp(*flat(rows), ReinforcePPParams(gamma)), returns(rows, gamma)
    if len(expected) < 2 or np.ptp(expected) <= 1e-9:
        assert not found.any()
        return
    whitened = (expected - expected.mean()) / np.sqrt(expected.var(ddof=1) + 1e-8)
    np.testing.assert_allclose(found, whitened, atol=1e-8)


@given(RESPONSES, st.floats(0.5, 4), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_neither_scale_nor_order_of_responses_matters(rows, scale, random):
    params, (rewards, offsets) = ReinforcePPParams(0.9, eps=0.0), flat(rows)
    assume(len(rewards) > 1 and np.ptp(returns(rows, 0.9)) > 1e-3)
    found = reinforce_pp(rewards, offsets, params)
    assert found.mean() == pytest.approx(0, abs=1e-9)
    assert found.std(ddof=1) == pytest.approx(1)
    np.testing.assert_allclose(reinforce_pp(scale * rewards, offsets, params), found, atol=1e-6)
    order = random.sample(range(len(rows)), len(rows))
    again = reinforce_pp(*flat([rows[at] for at in order]), params)
    turned, _ = flat([split(found, offsets)[at] for at in order])
    np.testing.assert_allclose(again, turned, atol=1e-9)


@pytest.mark.parametrize("rows", [[], [[]], [[0.3]], [[], [0.7]]], ids=["no response", "no token", "one", "one of two"])
def test_no_more_than_one_token_says_nothing(rows):
    assert not reinforce_pp(*flat(rows)).any()


def test_trees_of_two_tasks_are_one_batch():
    #     0        6   two questions
    #   1   4  5   7   answers, of which 5 has no verdict
    #   2              what was shown after the first step
    #   3              the second step
    trees = labelled_trees(
        (-1, 0, 1, 2, 0, 0, -1, 6),
        (NA, NA, NA, 1, 0, NA, NA, 0),
        sizes=(5, 1, 2, 2, 1, 3, 1, 1),
        tree=(0, 0, 0, 0, 0, 0, 1, 1),
        kind=(0, 1, 0, 1, 1, 1, 0, 1),
        origin=(0, 1, 0, 1, 1, 1, 0, 1),
    )
    found = METHODS["reinforce_pp"].function(trees, ReinforcePPParams(gamma=0.5))
    paid = np.array([0.25, 0.5, 1, 0, 0])  # of 1, both tokens of 3, and 4; of 7
    white = (paid - paid.mean()) / np.sqrt(paid.var(ddof=1) + 1e-8)
    expected = [*[0] * 5, white[0], 0, 0, white[1], white[2], white[3], NA, NA, NA, 0, white[4]]
    np.testing.assert_allclose(found.token_advantages, expected, atol=1e-12)
    nodes = [0, white[0], 0, white[1:3].mean(), white[3], NA, 0, white[4]]
    np.testing.assert_allclose(found.advantage, nodes, atol=1e-12)


def test_a_token_counts_once_for_each_trajectory_through_it():
    #    0
    #    1
    #   2 3
    trees = labelled_trees((-1, 0, 1, 1), (NA, NA, 1, 0), kind=(0, 1, 1, 1), origin=(0, 1, 1, 1))
    found = METHODS["reinforce_pp"].function(trees, ReinforcePPParams())
    side = 0.5 / np.sqrt(1 / 3 + 1e-8)  # four returns: 1, 1, 0, 0
    np.testing.assert_allclose(found.advantage, [0, 0, side, -side], atol=1e-12)


def test_the_batch_is_a_whole_shard():
    assert METHODS["reinforce_pp"].across_tasks(ReinforcePPParams())
