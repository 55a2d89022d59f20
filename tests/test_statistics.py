"""Estimates against known figures and direct counts."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.statistics import auc, difference_interval, pass_at_k, share_interval, wilson

NA = float("nan")


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        pytest.param(5, 10, 0.2366, 0.7634, id="half"),
        pytest.param(0, 10, 0.0, 0.2775, id="none right"),
        pytest.param(10, 10, 0.7225, 1.0, id="all right"),
        pytest.param(1, 1, 0.2065, 1.0, id="one sample"),
        pytest.param(0, 0, NA, NA, id="nothing tried"),
    ],
)
def test_wilson(successes, count, low, high):
    np.testing.assert_allclose(wilson(successes, count), (low, high), atol=1e-4)


def test_wilson_of_many():
    low, high = wilson(np.array([0, 4, 8]), np.array([8, 8, 8]))
    assert low[0] == 0
    assert high[2] == 1
    np.testing.assert_allclose(low + high[::-1], 1, atol=1e-12)


@pytest.mark.parametrize(
    ("score", "positive", "area"),
    [
        pytest.param((1, 2, 3, 4), (0, 0, 1, 1), 1, id="apart"),
        pytest.param((4, 3, 2, 1), (0, 0, 1, 1), 0, id="the wrong way round"),
        pytest.param((1, 1, 1), (0, 1, 0), 1 / 2, id="all tied"),
        pytest.param((1, 2, 2, 3), (0, 0, 1, 1), 7 / 8, id="one tie"),
        pytest.param((1, NA, 2), (0, 0, 1), 1, id="unknown dropped"),
        pytest.param((1, 2), (1, 1), None, id="one class"),
        pytest.param((NA, 2), (0, 1), None, id="one class left"),
    ],
)
def test_auc(score, positive, area):
    assert auc(score, positive) == area


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=20))
@settings(max_examples=80, deadline=None)
def test_auc_counts_pairs(rows):
    yes = [score for score, positive in rows if positive]
    no = [score for score, positive in rows if not positive]
    pairs = [(a > b) + (a == b) / 2 for a in yes for b in no]
    found = auc([score for score, _ in rows], [positive for _, positive in rows])
    assert found == (pytest.approx(np.mean(pairs)) if pairs else None)


INTERVALS = pytest.mark.parametrize("interval", [share_interval, difference_interval])


def test_the_task_is_the_unit():
    """Three tasks of means 1, 0, 1/2: a variance of 1/12, as of three trials of a half."""
    values = [[1, 1, 1, 1], [0, NA], 0.5, [NA], []]
    student = 4.302653
    half = student * 0.5 / np.sqrt(3 + student**2)
    assert share_interval(values) == pytest.approx((0.5, 0.5 - half, 0.5 + half), abs=1e-6)
    assert difference_interval([[v - 0.5 for v in np.atleast_1d(task)] for task in values]) == pytest.approx((0, -1, 1))
    half = student * 0.1 / np.sqrt(3)
    assert difference_interval([0.1, 0.2, 0.3]) == pytest.approx((0.2, 0.2 - half, 0.2 + half), abs=1e-6)


@INTERVALS
@pytest.mark.parametrize(("values", "found"), [([], (None,) * 3), ([[NA]], (None,) * 3), ([[0, 1]], (0.5, None, None))])
def test_an_interval_of_too_few(interval, values, found):
    assert interval(values) == found


@given(st.lists(st.integers(0, 4).map(lambda right: right / 4), min_size=2, max_size=12))
@settings(max_examples=80, deadline=None)
def test_intervals_stay_where_their_figures_are(shares):
    mean, low, high = share_interval(shares)
    assert 0 <= low <= mean <= high <= 1
    assert low < high
    mean, low, high = difference_interval([2 * share - 1 for share in shares])
    assert -1 <= low <= mean <= high <= 1


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_tasks_that_agree_are_a_trial_each(share):
    student = 2.776445
    low, high = share_interval([share] * 5)[1:]
    assert (low, high) == pytest.approx(
        {
            0.0: (0, student**2 / (5 + student**2)),
            0.5: (0.5 - student / 2 / np.sqrt(5 + student**2), 0.5 + student / 2 / np.sqrt(5 + student**2)),
            1.0: (5 / (5 + student**2), 1),
        }[share],
        abs=1e-6,
    )


@INTERVALS
def test_many_tasks_have_the_normal_interval(interval):
    values = np.random.default_rng(0).binomial(4, np.random.default_rng(1).beta(3, 1, 500)) / 4
    mean, low, high = interval(list(values))
    half = 1.959964 * values.std(ddof=1) / np.sqrt(500)
    assert (mean, low, high) == pytest.approx((values.mean(), mean - half, mean + half), abs=2e-3)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_pass_at_k_counts_draws(k):
    n = 5
    expected = [np.mean([min(draw) < c for draw in combinations(range(n), k)]) for c in range(n + 1)]
    np.testing.assert_allclose(pass_at_k(n, np.arange(n + 1), k), expected, atol=1e-12)


def test_pass_at_k_needs_k_samples():
    np.testing.assert_allclose(pass_at_k([3, 4], [3, 4], 4), (NA, 1))
    with pytest.raises(ValueError, match="pass@0"):
        pass_at_k(3, 1, 0)
