"""Math-Shepherd labels: shares of completions, the first error, and the score of a solution."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.credit.math_shepherd import MathShepherdParams, first_error_index, math_shepherd, solution_scores
from pipeline.errors import BadConfig

NA = float("nan")
STEPS = st.lists(st.lists(st.sampled_from([0.0, 1.0, NA]), max_size=5), min_size=1, max_size=6)


def label(completions, outcomes=None):
    """A code a step, with the rewards of its completions."""
    prefixes = np.repeat(np.arange(len(completions)), [len(some) for some in completions])
    final = np.full(len(completions), NA) if outcomes is None else np.array(outcomes, float)
    rewards = np.array([reward for some in completions for reward in some], float)
    return math_shepherd(rewards, prefixes, steps=np.arange(len(completions)), outcomes=final)


def test_labels():
    found = label([[1, 1, 0, 1], [0, 0], [NA, 1], [], [1, 1]], [NA, NA, NA, NA, 0])
    np.testing.assert_allclose(found.soft, (0.75, 0, 1, NA, 0))
    np.testing.assert_allclose(found.hard, (1, 0, 1, NA, 0))
    assert found.n_rollouts.tolist() == [4, 2, 1, 0, 1]


def test_a_final_step_is_right_above_0():
    found = label([[], []], [0.3, 0.0])
    assert [column.tolist() for column in found] == [[0.3, 0], [1, 0], [1, 1]]


@given(STEPS, st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_hard_is_soft_above_0_and_more_completions_never_undo_it(steps, random):
    found, more = label(steps), label([[*some, random.choice([0.0, 1.0])] for some in steps])
    known = ~np.isnan(found.soft)
    assert (found.hard[known] == (found.soft[known] > 0)).all()
    assert (more.hard[found.hard == 1] == 1).all()
    shuffled = label([random.sample(some, len(some)) for some in steps])
    np.testing.assert_allclose(found.soft, shuffled.soft)


def test_equal_prefixes_share_their_completions():
    found = math_shepherd(
        np.array([1.0, 0, 1, 1]), np.array([0, 0, 1, 0]), steps=np.array([0, 1, 0]), outcomes=np.full(3, NA)
    )
    np.testing.assert_allclose(found.soft, (2 / 3, 1, 2 / 3))
    assert found.n_rollouts.tolist() == [3, 1, 3]


@pytest.mark.parametrize(
    ("hard", "index"),
    [((1, 1), -1), ((0, 1, 1), 0), ((1, 0, 0), 1), ((1, NA, 0), 2), ((NA, NA), -1), ((), -1)],
)
def test_first_error(hard, index):
    both = np.array([1, 0, *hard, 0], float)
    assert first_error_index(both, np.array([0, 2, 2 + len(hard), 3 + len(hard)])).tolist() == [1, index, 0]


@pytest.mark.parametrize(("aggregate", "scores"), [("minimum", (0.5, NA, 0.2, NA)), ("product", (0.4, NA, 0.2, NA))])
def test_solution_scores(aggregate, scores):
    steps, offsets = np.array([0.8, 0.5, 0.2, 1.0, NA]), np.array([0, 2, 2, 3, 5])
    np.testing.assert_allclose(solution_scores(steps, offsets, MathShepherdParams(aggregate=aggregate)), scores)
    assert np.isnan(solution_scores(np.zeros(0), np.array([0, 0]))).all()


def test_bad_parameters_are_named():
    with pytest.raises(BadConfig, match="mean"):
        MathShepherdParams(aggregate="mean")
