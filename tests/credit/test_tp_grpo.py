"""TP-GRPO: labels, thoughts and their closed-form advantages."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_trees import NA, labelled_trees

from pipeline.credit.ragged import ragged
from pipeline.credit.tp_grpo import LABELS, TpGrpoParams, tp_grpo, tp_grpo_credit
from pipeline.errors import BadTable


def credit(solutions, groups=None, **params):
    """Of pairs: whether correct, and labels that are 0 for the first word of its kind and 1 for the second."""
    labels = ragged(([flag + (0 if right else 2) for flag in flags] for right, flags in solutions), np.int64)
    correct = np.array([right for right, _ in solutions])
    groups = np.array([0] * len(solutions) if groups is None else groups)
    return tp_grpo(*labels, correct=correct, groups=groups, params=TpGrpoParams(**params))


SOLUTIONS = st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 1), max_size=6)), min_size=1, max_size=6)


@given(SOLUTIONS)
@settings(max_examples=60, deadline=None)
def test_a_solution_has_two_advantages(solutions):
    found = credit(solutions)
    share, at = np.mean([right for right, _ in solutions]), 0
    for row, (right, flags) in enumerate(solutions):
        other = found.outcome[row] - share if right else 0.0
        expected = [other if flag else found.outcome[row] for flag in flags]
        np.testing.assert_allclose(found.advantages[at : at + len(flags)], expected, atol=1e-12)
        at += len(flags)
    assert np.isfinite(found.advantages).all()


@given(SOLUTIONS)
@settings(max_examples=60, deadline=None)
def test_thoughts_are_runs_of_one_label(solutions):
    found, at = credit(solutions).thoughts, 0
    for _, flags in solutions:
        runs = np.cumsum([0, *(a != b for a, b in pairwise(flags))])[: len(flags)]
        assert found[at : at + len(flags)].tolist() == runs.tolist()
        at += len(flags)


@given(SOLUTIONS, SOLUTIONS, st.randoms())
@settings(max_examples=40, deadline=None)
def test_order_and_other_tasks_do_not_matter(here, there, random):
    both = credit([*there, *here], [1] * len(there) + [0] * len(here))
    alone = credit(here)
    np.testing.assert_array_equal(both.advantages[len(both.advantages) - len(alone.advantages) :], alone.advantages)
    order = list(range(len(here)))
    random.shuffle(order)
    np.testing.assert_allclose(credit([here[row] for row in order]).outcome, alone.outcome[order], atol=1e-12)


def test_more_steps_of_a_label_change_nothing():
    short, long = credit([(True, [0, 1]), (False, [1])]), credit([(True, [0, 0, 0, 1, 1]), (False, [1])])
    assert set(short.advantages) == set(long.advantages)
    assert short.outcome.tolist() == long.outcome.tolist()


def test_outcome_only_where_nothing_is_solved():
    found = credit([(False, [0, 1]), (False, [0])])
    assert found.process.tolist() == [0]
    assert found.advantages.tolist() == [0, 0, 0]


def test_a_group_that_solved_all_still_blames_wrong_thoughts():
    found = credit([(True, [0, 1]), (True, [0])], alpha=0.5)
    assert found.outcome.tolist() == [0, 0]
    assert found.advantages.tolist() == [0, -0.5, 0]
    assert found.unit_rewards.tolist() == [0.5, 0.5]


def test_a_group_of_one_has_no_outcome_advantage():
    found = credit([(True, [0, 1])])
    assert found.outcome.tolist() == [0]
    assert found.advantages.tolist() == [0, -1]


def test_numbers_of_a_group():
    found = credit([(True, [1]), (False, [0, 1])])
    outcome = 1 / (np.sqrt(2) + 1e-4)
    np.testing.assert_allclose(found.advantages, [outcome - 0.5, -outcome, 0], atol=1e-12)
    np.testing.assert_allclose(found.unit_rewards, [0.5, -outcome], atol=1e-12)


@pytest.mark.parametrize(("right", "label"), [(True, "match"), (False, "correct")])
def test_labels_must_fit_the_outcome(right, label):
    labels = np.array([LABELS.index(label)])
    with pytest.raises(BadTable, match="step 0 of solution 0"):
        tp_grpo(labels, np.array([0, 1]), correct=np.array([right]), groups=np.array([0]))


def test_credit_of_trees():
    #       0          the question
    #   1   2   7      three rollouts; 5 and 6 are the answers of two, 7 has no verdict
    #   3   4
    #   5   6
    trees = labelled_trees(
        (-1, 0, 0, 1, 2, 3, 4, 0), (NA, NA, NA, NA, NA, 1, 0, NA), step_hard=(NA, NA, 0, 0, 1, 0, 1, 0)
    )
    outcome = 1 / (np.sqrt(2) + 1e-4)
    expected = [0, outcome, -outcome, outcome - 0.5, 0, outcome, -outcome, NA]
    np.testing.assert_allclose(tp_grpo_credit(trees).advantage, expected, atol=1e-12)
