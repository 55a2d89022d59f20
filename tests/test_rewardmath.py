"""RewardMATH: aggregation of step scores, accuracy and rank, and reading judges."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.credit.ragged import ragged
from pipeline.errors import BadConfig, BadTable
from pipeline.metrics.rewardmath import (
    AGGREGATIONS,
    pairwise_scores,
    read_choice,
    read_rating,
    reward_math,
    solution_scores,
)

NA = float("nan")
SCORE = st.sampled_from([-2.0, 0.0, 0.5, 0.75, 3.0])
TASKS = st.lists(st.tuples(SCORE, st.lists(SCORE, min_size=1, max_size=4)), min_size=1, max_size=4)


def judge(*tasks, aggregation="normal"):
    """Of pairs: score of the right solution, scores of the wrong ones."""
    scores = np.array([score for right, wrong in tasks for score in (right, *wrong)])
    chosen = np.array([place == 0 for _, wrong in tasks for place in range(1 + len(wrong))])
    codes = np.array([code for code, (_, wrong) in enumerate(tasks) for _ in range(1 + len(wrong))])
    return reward_math(scores, chosen, codes, aggregation=aggregation)


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("min", 0.2),
        ("max", 0.8),
        ("prod", 0.08),
        ("geometric_mean", 0.08 ** (1 / 3)),
        ("mean", 0.5),
        ("mean_logit", 1 / (1 + math.exp(-math.log(4 * 0.25) / 3))),
        ("mean_odd", (0.25 + 4 + 1) / 3),
        ("last", 0.5),
    ],
)
def test_aggregation(aggregation, expected):
    found = solution_scores(*ragged([[0.2, 0.8, 0.5], [], [0.5, None]]), aggregation=aggregation)
    np.testing.assert_allclose(found, [expected, NA, NA])


def test_scalar_scores_stay_as_they_are():
    found = solution_scores(*ragged([[-3.5], [0.5, 0.5], []]), aggregation="normal")
    np.testing.assert_array_equal(found, [-3.5, NA, NA])


def test_certain_steps():
    certain = ragged([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    for aggregation in set(AGGREGATIONS) - {"normal"}:
        assert np.isfinite(solution_scores(*certain, aggregation=aggregation)).all(), aggregation
    np.testing.assert_allclose(solution_scores(*certain, aggregation="mean_logit"), [0.5, 1 - 1e-6, 1e-6])
    np.testing.assert_allclose(solution_scores(*certain, aggregation="mean_odd")[1], (1 - 1e-6) / 1e-6)
    assert solution_scores(*certain, aggregation="geometric_mean").tolist() == [0, 1, 0]


def test_an_unknown_aggregation():
    with pytest.raises(BadConfig, match="geometric_mean"):
        solution_scores(*ragged([[1.0]]), aggregation="median")


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [
        (1.0, [0.5, 0.0], (1, 1, 1)),
        (1.0, [1.0, 0.0], (0, 1, 1 / 2)),
        (1.0, [1.0, 1.0, 2.0], (0, 0, 1 / 4)),
        (math.inf, [0.0], (1, 1, 1)),
        (-math.inf, [-math.inf], (0, 1, 1 / 2)),
    ],
)
def test_ties_rank_last(right, wrong, expected):
    found = judge((right, wrong))
    assert (found.accuracy, found.with_ties, found.mrr) == expected


def test_equal_but_for_rounding():
    scores = solution_scores(*ragged([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.2]]), aggregation="mean")
    assert len(set(scores)) > 1
    found = judge((scores[0], scores[1:]), (scores[2], scores[:2]), aggregation="mean")
    assert (found.accuracy, found.with_ties, found.per_task_mrr.tolist()) == (0, 1, [1 / 3, 1 / 3])


@given(TASKS, SCORE)
@settings(max_examples=60, deadline=None)
def test_another_wrong_solution_never_helps(tasks, more):
    before, after = judge(*tasks), judge((tasks[0][0], [*tasks[0][1], more]), *tasks[1:])
    assert after.accuracy <= before.accuracy
    assert after.mrr <= before.mrr
    assert before.accuracy <= before.with_ties


@given(TASKS)
@settings(max_examples=60, deadline=None)
def test_only_the_order_of_scalar_scores_counts(tasks):
    moved = [(math.atan(right) / 1e6, [math.atan(score) / 1e6 for score in wrong]) for right, wrong in tasks]
    for found, other in zip(judge(*tasks), judge(*moved), strict=True):
        np.testing.assert_array_equal(found, other)


def test_tasks_do_not_touch_each_other():
    found = judge((1.0, [0.0]), (NA, [5.0]), (0.0, [1.0, NA]), (0.0, [1.0]))
    np.testing.assert_array_equal(found.per_task_mrr, [1, NA, NA, 1 / 2])
    assert (found.accuracy, found.mrr) == (0.5, 0.75)
    assert math.isnan(judge((NA, [5.0])).accuracy)


@pytest.mark.parametrize(("chosen", "kind"), [([True, True], "wrong"), ([False, False], "right")])
def test_a_task_without_one_kind(chosen, kind):
    with pytest.raises(BadTable, match=f"task 0 has no {kind} solution"):
        reward_math(np.zeros(2), np.array(chosen), np.zeros(2, int))


def test_pairwise():
    right, wrong = pairwise_scores(np.array([True, False, True, True]), np.array([0, 3, 4]))
    assert (right.tolist(), wrong.tolist()) == ([3, 2], [1, 5, 1, 1])
    assert judge((right[0], wrong[:3])).accuracy == 0
    assert judge((right[1], wrong[3:])).accuracy == 1


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Short.\nRating: [[7]]", 7),
        ("[[2]] no, [[ 9.5 ]]", 9.5),
        *[(text, None) for text in ("7", "[[11]]", "[[0]]", "[[x]]", "", "[[" * 10**5, "[[" + "9" * 10**5)],
    ],
)
def test_ratings(text, rating):
    assert read_rating(text) == rating


@pytest.mark.parametrize(("text", "choice"), [("[[A]] or [[B]]", "B"), ("I take A", None), ("[[C]]", None), ("", None)])
def test_choices(text, choice):
    assert read_choice(text) == choice
