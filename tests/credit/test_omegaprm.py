"""OmegaPRM: which rollout is searched, where it goes wrong, and the tree that grows."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.credit.omegaprm import OmegaprmParams, Rollout, locate, parents, priorities, search, select
from pipeline.errors import BadConfig

NA = float("nan")


def test_priorities():
    found = priorities(
        np.array([0.5, 0.9, 0.9, 0.0, 1.0]),
        np.array([100, 400, 50, 10, 10]),
        states=np.array([0, 1, 1, 2, 2]),
        visits=np.array([1, 3, 0]),
    )
    np.testing.assert_allclose(found.q, (0.5**0.5 * 0.9**0.2, 0.5**0.1 * 0.9**0.8, 0.5**0.1 * 0.9**0.1, NA, NA))
    np.testing.assert_allclose(found.u, (0.125, 0.0625, 0.0625, NA, NA))
    np.testing.assert_allclose(found.score, found.q + found.u)
    assert select(found.score) == 2


def test_before_any_visit_the_sum_counts_as_1():
    found = priorities(np.array([0.5]), np.array([0]), states=np.array([0]), visits=np.array([0, 0]))
    np.testing.assert_allclose(found.u, (0.125,))


@pytest.mark.parametrize(
    ("scores", "place"),
    [((0.1, 0.3, 0.3), 1), ((0.3, 0.1 + 0.2), 0), ((0.1 + 0.2, 0.3), 0), ((NA, 0.1), 1), ((NA,), -1), ((), -1)],
)
def test_select_takes_the_first_of_equals(scores, place):
    assert select(np.array(scores)) == place


def lookup(quality):
    return lambda rows, lengths: np.array([quality[row][length - 1] for row, length in zip(rows, lengths)])


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=6))
@settings(max_examples=80, deadline=None)
def test_halving_finds_the_first_error_of_each(solutions):
    lengths = [max(pair) for pair in solutions]
    errors = [min(pair) for pair in solutions]
    quality = [[float(step < error) for step in range(1, n + 1)] for n, error in zip(lengths, errors, strict=True)]
    found = locate(np.array(lengths), lookup(quality))
    assert found.first_error.tolist() == errors
    for row, length in enumerate(lengths):
        assert (found.rows == row).sum() <= math.ceil(math.log2(length))


@given(st.lists(st.sampled_from([0.0, 0.5, NA]), min_size=1, max_size=20))
@settings(max_examples=80, deadline=None)
def test_with_noise_it_is_still_a_step_from_good_to_bad(quality):
    found = locate(np.array([len(quality)]), lookup([quality]))
    error = int(found.first_error[0])
    probed = dict(zip(found.lengths.tolist(), found.mc, strict=True))
    assert error == 1 or probed[error - 1] > 0
    assert error == len(quality) or not probed[error] > 0
    assert len(probed) == len(found.lengths)


def test_one_step_needs_no_probe_and_none_has_no_error():
    found = locate(np.array([1, 0]), lookup([]))
    assert found.first_error.tolist() == [1, 0]
    assert len(found.rows) == 0


class Task:
    """Solutions of four steps, each right or wrong by a coin of its prefix; counts what is drawn."""

    def __init__(self, seed: int, k: int = 4):
        self.seed, self.k, self.drawn = seed, k, []

    def __call__(self, prefix):
        self.drawn.append(prefix)
        random = np.random.default_rng([self.seed, *(int(step[1:]) for step in prefix), len(prefix)])
        rollouts = []
        for _ in range(self.k):
            steps = tuple(f"s{random.integers(100)}" for _ in range(4 - len(prefix)))
            rollouts.append(Rollout(steps, bool(random.random() < 0.5), int(random.integers(1, 600))))
        return rollouts


@pytest.mark.parametrize("seed", range(5))
def test_a_search_draws_each_prefix_once_and_labels_what_it_probes(seed):
    task = Task(seed)
    states = search(task, OmegaprmParams(rollouts=4))
    assert len(task.drawn) == len(set(task.drawn)) == len(states)
    assert [state.prefix for state in states] == task.drawn
    for state in states:
        assert state.mc == np.mean([rollout.right for rollout in state.rollouts])
        wrong = sum(not rollout.right and len(rollout.steps) > 0 for rollout in state.rollouts)
        assert state.visits <= (wrong if 0 < state.mc < 1 else 0)  # a rollout is used once
    above = parents(states)
    assert above[0] == -1
    for place, state in enumerate(states[1:], start=1):
        assert state.prefix[: len(states[above[place]].prefix)] == states[above[place]].prefix
    assert sum(state.visits for state in states) <= 100


def test_limits():
    many = search(Task(0), OmegaprmParams(rollouts=4))
    assert sum(state.visits for state in search(Task(0), OmegaprmParams(rollouts=4, search_limit=1))) == 1
    task = Task(0)
    few = search(task, OmegaprmParams(rollouts=4, rollout_budget=10))
    assert len(few) == 2 < len(many)
    assert 4 * len(task.drawn) <= 10


@pytest.mark.parametrize("right", [True, False])
def test_a_root_that_is_all_right_or_all_wrong_is_not_searched(right):
    states = search(lambda prefix: [Rollout(("a", "b"), right, 5)] * 8)
    assert [(state.prefix, state.mc, state.visits) for state in states] == [((), float(right), 0)]


def test_parents_are_the_nearest_prefixes():
    states = search(lambda prefix: [Rollout(tuple("abcdefgh"[len(prefix) :]), False, 5), Rollout((), True, 1)])
    prefixes = {"".join(state.prefix): place for place, state in enumerate(states)}
    assert set(prefixes) >= {"", "abcd"}
    for name, place in prefixes.items():
        shorter = [other for other in prefixes if len(other) < len(name)]
        assert parents(states)[place] == (prefixes[max(shorter, key=len)] if shorter else -1)


def test_bad_parameters_are_named():
    with pytest.raises(BadConfig, match="rollouts 0"):
        OmegaprmParams(rollouts=0)
