"""Clip and Delta: bounds, and returns that telescope."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_trees import NA, labelled_trees

from pipeline.credit.clip_delta import MODES, ClipDeltaParams, clip_delta, clip_delta_credit
from pipeline.credit.ragged import ragged, split
from pipeline.errors import BadConfig

SCORES = st.lists(st.floats(-1, 1), max_size=6)


def shape(scores, correct=0.0, **params):
    flat = ragged([scores])
    return clip_delta(*flat, outcomes=np.array([correct]), params=ClipDeltaParams(**params))


@pytest.mark.parametrize(
    ("mode", "scores", "shaped"),
    [
        pytest.param("delta", [0.9], [0], id="one step has nothing"),
        pytest.param("delta", [0.9, 0.3], [0.9, 0], id="two: the first keeps its score"),
        pytest.param("delta", [0.9, 0.3, 0.8], [0.6, 0.3, 0], id="three"),
        pytest.param("clip_delta", [0.4, 0.9, 0.8], [-0.1, 0, 0], id="clip comes first"),
        pytest.param("clip_delta", [0.4], [0], id="clip and delta of one step"),
        pytest.param("clip", [0.4, 0.9], [-0.1, 0], id="clip"),
        pytest.param("raw", [0.4, 0.9], [0.4, 0.9], id="raw is the plain score"),
        pytest.param("delta", [], [], id="no step"),
    ],
)
def test_shaped(mode, scores, shaped):
    np.testing.assert_allclose(shape(scores, mode=mode).shaped, shaped, atol=1e-12)


@given(SCORES)
@settings(max_examples=50, deadline=None)
def test_clipped_rewards_are_not_positive(scores):
    assert (shape(scores, mode="clip").shaped <= 0).all()


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=6), st.sampled_from([0.0, 1.0]))
@settings(max_examples=50, deadline=None)
def test_delta_returns_telescope(scores, correct):
    found = shape(scores, correct, mode="delta")
    expected = [0.1 * score + correct for score in scores[:-1]] + [correct]
    np.testing.assert_allclose(found.return_to_go, expected, atol=1e-9)


def test_repeating_a_good_step_adds_nothing():
    assert shape([0.2, 0.9], mode="clip").return_to_go[0] == shape([0.2, 0.9, 0.9, 0.9], mode="clip").return_to_go[0]
    once, often = (shape([0.9] * count + [0.1], mode="delta").return_to_go[0] for count in (1, 5))
    assert once == pytest.approx(often)


@given(st.lists(SCORES, min_size=1, max_size=5), st.sampled_from(MODES))
@settings(max_examples=50, deadline=None)
def test_a_trajectory_is_alone_in_its_batch(batch, mode):
    flat, outcomes = ragged(batch), np.arange(len(batch)) % 2.0
    found = clip_delta(*flat, outcomes=outcomes, params=ClipDeltaParams(mode))
    for scores, outcome, returns in zip(batch, outcomes, split(found.return_to_go, flat.offsets), strict=True):
        np.testing.assert_array_equal(returns, shape(scores, outcome, mode=mode).return_to_go)


def test_an_unknown_score_stays_unknown_where_it_enters():
    np.testing.assert_array_equal(shape([0.5, NA, 0.5], mode="raw", alpha=1).return_to_go, [NA, NA, 0.5])
    np.testing.assert_array_equal(shape([0.5, NA], 1.0, mode="delta", alpha=1).return_to_go, [1.5, 1])


#     0         the question
#   1   2   5   three rollouts, the last without a verdict
#   3   4
TREE = {"parent": (-1, 0, 0, 1, 2, 0), "reward": (NA, NA, NA, 1, 0, NA)}


def test_credit_of_trees():
    trees = labelled_trees(**TREE, step_soft=(NA, 0.9, 0.4, 0.8, 0.2, 0.7))
    found = clip_delta_credit(trees, ClipDeltaParams("raw", alpha=1.0))
    returns = np.array([NA, 2.7, 0.6, 1.8, 0.2, NA])
    np.testing.assert_allclose(found.value, returns, atol=1e-12)
    np.testing.assert_allclose(found.advantage, [0, *(returns[1:] - (2.7 + 0.6) / 2)], atol=1e-12)
    bare = clip_delta_credit(trees, ClipDeltaParams("raw", alpha=1.0, baseline="none"))
    np.testing.assert_allclose(bare.advantage, [0, *returns[1:]], atol=1e-12)


def test_credit_of_a_shared_step_is_the_mean_of_the_known():
    trees = labelled_trees((-1, 0, 1, 1, 1), (NA, NA, 1, 0, 1), step_soft=(NA, 0.5, 0.6, 0.8, NA))
    found = clip_delta_credit(trees, ClipDeltaParams("raw", alpha=1.0, baseline="none"))
    np.testing.assert_allclose(found.advantage, [0, 0.5 + (1.6 + 0.8) / 2, 1.6, 0.8, NA], atol=1e-12)


def test_equal_trajectories_and_nothing_known():
    trees = labelled_trees((-1, 0, 0), (NA, 1, 1), step_soft=(NA, 0.3, 0.3))
    assert clip_delta_credit(trees).advantage.tolist() == [0, 0, 0]
    unjudged = labelled_trees((-1, 0), (NA, NA), step_soft=(NA, 0.3))
    np.testing.assert_array_equal(clip_delta_credit(unjudged).advantage, [0, NA])


@pytest.mark.parametrize("params", [{"mode": "clipped"}, {"baseline": "mean"}])
def test_unknown_words_are_named(params):
    with pytest.raises(BadConfig, match=next(iter(params.values()))):
        ClipDeltaParams(**params)
