"""The ProcessBench figure, and predictions from scores and verdicts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.metrics.processbench import best_threshold, first_below, first_negative, processbench, report

NA = float("nan")


@pytest.mark.parametrize(
    ("labels", "predictions", "expected"),
    [
        pytest.param((0, 2, -1, -1), (0, 3, -1, 1), (50, 50, 50), id="half of both"),
        pytest.param((0, 2, -1), (0, 2, 1), (100, 0, 0), id="one side at 0"),
        pytest.param((0, -1), (1, 0), (0, 0, 0), id="both at 0"),
        pytest.param((0, -1, -1, -1, -1), (0, -1, NA, 0, 2), (100, 25, 40), id="harmonic; missing is wrong"),
        pytest.param((0, 1), (0, NA), (50, NA, NA), id="no right solution"),
        pytest.param((-1,), (0,), (NA, 0, NA), id="no wrong solution"),
        pytest.param((), (), (NA, NA, NA), id="nothing"),
    ],
)
def test_processbench(labels, predictions, expected):
    np.testing.assert_allclose(processbench(np.array(labels), np.array(predictions, float)), expected)


@given(st.lists(st.tuples(st.integers(-1, 2), st.integers(-1, 2)), min_size=1, max_size=20), st.randoms())
@settings(max_examples=50, deadline=None)
def test_order_does_not_matter_and_a_subset_is_scored_alone(rows, random):
    labels, predictions = np.array(rows).T
    mixed = np.array(random.sample(rows, len(rows))).T
    np.testing.assert_allclose(processbench(*mixed), processbench(labels, predictions))
    subsets = np.array(["gsm8k", "math"])[labels % 2]
    found = report(labels, predictions, subsets)
    for name, scores in found.scores.items():
        np.testing.assert_allclose(scores, processbench(labels[subsets == name], predictions[subsets == name]))


def test_the_mean_is_over_subsets_not_over_rows():
    labels, predictions = np.array([0, -1, 0, -1, 0, -1]), np.array([0, -1, 1, -1, 1, -1])
    found = report(labels, predictions, np.array(["a", "a", "b", "b", "b", "b"]))
    assert found.mean_f1 == 50
    assert list(found.scores) == ["a", "b"]
    assert np.isnan(report(labels[:1], predictions[:1], np.array(["a"])).mean_f1)


def test_predictions():
    scores, offsets = np.array([0.9, 0.4, 0.1, 0.8, NA, 0.5]), np.array([0, 3, 5, 5, 6])
    assert first_below(scores, offsets, 0.5).tolist() == [1, -1, -1, -1]
    assert first_below(scores, offsets, 0.1).tolist() == [-1] * 4
    verdicts = np.array([1, -1, -1, 1, NA, 1])
    assert first_negative(verdicts, offsets).tolist() == [1, 1, -1, -1]


def test_best_threshold():
    scores, offsets = np.array([0.9, 0.3, 0.8, 0.6, 0.9, 0.9]), np.array([0, 2, 4, 6])
    labels = np.array([1, -1, -1])
    candidates = np.array([0.1, 0.4, 0.5, 0.7, 0.95])
    assert best_threshold(scores, offsets, labels=labels, candidates=candidates) == 0.4
