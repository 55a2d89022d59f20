"""Curricula: easiness, weights and how they move to 1, and the order of items."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.builders.curriculum import (
    CurriculumParams,
    curriculum_ranks,
    item_weights,
    kdescore,
    label_easiness,
    normscore,
    pair_easiness,
    pair_weights,
    point_weights,
    task_easiness,
)
from pipeline.errors import BadConfig

NA = float("nan")
EPS = 1e-8
READY = {"heuristic": "normscore"}
D = st.lists(st.floats(0, 1), min_size=1, max_size=6).map(np.array)


def pairs(positive, negative, **params):
    """One negative for each positive."""
    offsets = np.arange(len(positive) + 1)
    return pair_weights(np.array(positive), np.array(negative), offsets, CurriculumParams(**params))


@given(D, D, st.integers(0, 25), st.integers(1, 20), st.booleans())
@settings(max_examples=60, deadline=None)
def test_weights_are_positive_and_end_at_one(d, other, epoch, end, anti):
    count = min(len(d), len(other))
    params = {**READY, "epoch": epoch, "end_of_curriculum": end, "anti": anti}
    for weights in (
        pairs(d[:count], other[:count], **params),
        point_weights(d, np.arange(len(d)) % 2 == 0, CurriculumParams(**params)),
        item_weights(d, CurriculumParams(**params)),
    ):
        assert ((weights > 0) & (weights <= 1 + EPS)).all()
        if epoch >= end:
            assert (weights == 1).all()


@given(D, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_swapping_both_sides_complements(d, random):
    other = np.array([random.random() for _ in d])
    np.testing.assert_allclose(pairs(d, other, **READY) - EPS, 1 - (pairs(other, d, **READY) - EPS), atol=1e-12)
    np.testing.assert_allclose(pairs(d, other, **READY, anti=True), pairs(other, d, **READY), atol=1e-12)


def test_the_least_of_several_negatives():
    positive, negatives, offsets = np.array([0.5, 0.5, 0.5]), np.array([0.1, 0.9, 0.5]), np.array([0, 2, 3, 3])
    np.testing.assert_allclose(
        pair_weights(positive, negatives, offsets, CurriculumParams(**READY)), [0.3 + EPS, 0.5 + EPS, NA]
    )
    turned = pair_weights(positive, negatives, offsets, CurriculumParams(**READY, anti=True))
    np.testing.assert_allclose(turned, [0.7 + EPS, 0.5 + EPS, NA])


def test_points():
    params = CurriculumParams(**READY)
    np.testing.assert_allclose(point_weights(np.array([0.2, 0.2]), np.array([1, 0]), params), [0.2 + EPS, 0.8 + EPS])
    anti = CurriculumParams(**READY, anti=True)
    np.testing.assert_allclose(point_weights(np.array([0.2, 0.2]), np.array([1, 0]), anti), [0.8 + EPS, 0.2 + EPS])


@pytest.mark.parametrize("end", [0, -3])
def test_no_end_of_the_curriculum(end):
    params = {**READY, "epoch": 99, "end_of_curriculum": end}
    np.testing.assert_array_equal(pairs([0.2], [0.4], **params), pairs([0.2], [0.4], **READY))
    assert point_weights(np.array([0.2]), np.array([True]), CurriculumParams(**params)).tolist() == [1]


def test_half_way():
    np.testing.assert_allclose(pairs([2], [1], epoch=5, end_of_curriculum=10), [(0.25 + EPS) / 2 + 0.5])


def test_the_mean_of_the_batch():
    found = pairs([1.0, 0.0], [0.0, 1.0], **READY, weighting="batch_mean")
    np.testing.assert_allclose(found, [0.5 + EPS] * 2)


def test_ranks_begin_at_one():
    with pytest.raises(ValueError, match="item 1: rank 0"):
        point_weights(np.array([1, 0]), np.array([True, True]))


def test_normscore():
    found = normscore(np.array([1.0, 3.0, NA, 2.0, 7.0, 7.0]), np.array([0, 0, 0, 0, 1, 1]))
    np.testing.assert_array_equal(found, [0, 1, NA, 0.5, 0, 0])


def test_kdescore():
    scores = np.array([1.0, 3.0, 2.5, NA, 9.0, 4.0, 4.0])
    lists = np.array([0, 0, 0, 0, 0, 1, 1])
    own = [1.0, 3.0, 2.5, 9.0]
    width = statistics.stdev(own) / 4**0.2
    expected = [np.mean([0.5 + math.erf((x - y) / width / 2**0.5) / 2 for y in own]) for x in own]
    expected.insert(3, NA)
    np.testing.assert_allclose(kdescore(scores, lists), [*expected, 0.5, 0.5])
    assert kdescore(np.array([3.0]), np.array([0])).tolist() == [0.5]


def test_easiness_of_rows():
    np.testing.assert_array_equal(task_easiness(np.array([1, 0, 0]), np.array([4, 4, 0])), [0.25, 0, 0])
    np.testing.assert_array_equal(pair_easiness(np.array([1.0, 0.5]), np.array([0.0, 0.5])), [1, 0.5])
    np.testing.assert_array_equal(label_easiness(np.array([0.0, 0.5, 0.75, NA])), [1, 0, 0.5, NA])


def test_unknown_easiness_is_not_zero():
    weights = item_weights(np.array([NA, 0.5]), CurriculumParams(epoch=1))
    assert np.isnan(weights[0])
    assert weights[1] < 1
    batch = item_weights(np.array([NA, 0.5]), CurriculumParams(weighting="batch_mean"))
    np.testing.assert_allclose(batch, [0.5 + EPS] * 2)


def test_the_easiest_first():
    assert curriculum_ranks(np.array([0.5, NA, 1.0, 0.5]), ["b", "c", "d", "a"]).tolist() == [2, 3, 0, 1]


@pytest.mark.parametrize("params", [{"heuristic": "bm25"}, {"weighting": "sum"}])
def test_bad_parameters(params):
    with pytest.raises(BadConfig):
        CurriculumParams(**params)
