"""ArCHer against its direct definition, and what must hold of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_trees import NA, labelled_trees

from pipeline.credit import METHODS
from pipeline.credit.archer import (
    ArcherParams,
    CriticTargets,
    actor_loss,
    advantages,
    critic_loss,
    critic_targets,
    returns,
    update_target,
)
from pipeline.credit.ragged import ragged
from pipeline.golden.archer import answer

NUMBER = st.sampled_from([-1.0, 0.0, 0.1, 0.5, 2.0])
BATCH = st.lists(st.lists(NUMBER, max_size=5), max_size=6)


@given(BATCH, st.sampled_from([0.95, 1.0, 0.0]))
@settings(max_examples=60, deadline=None)
def test_returns_are_their_definition(batch, gamma):
    offsets = np.cumsum([0, *map(len, batch)], dtype=np.int64)
    found = returns(np.array([r for rows in batch for r in rows]), offsets, params=ArcherParams(gamma=gamma))
    expected = [sum(gamma**k * r for k, r in enumerate(rows[t:])) for rows in batch for t in range(len(rows))]
    np.testing.assert_allclose(found.monte_carlo, expected, atol=1e-12)
    np.testing.assert_allclose(found.trajectory_reward, [sum(rows) for rows in batch for _ in rows], atol=1e-12)


def test_the_last_return_is_its_reward():
    found = returns(np.array([1.0, 2.0, 4.0]), np.array([0, 2, 3]))
    np.testing.assert_allclose(found.monte_carlo, [2.9, 2, 4])


def test_done_ignores_what_follows_and_truncation_does_not():
    targets = critic_targets(
        np.array([1.0, 1.0]),
        np.array([True, False]),
        next_values=np.array([[np.nan, 2.0], [9.0, 4.0]]),
        policy_values=np.array([[1.0, 2.0], [3.0, 4.0]]),
    )
    np.testing.assert_allclose(targets.q, [[1, 2.9], [1, 4.8]])
    np.testing.assert_allclose(targets.v, [[1, 2], [3, 4]])


def test_critic_loss_sums_the_mean_errors_of_four_heads():
    q, v = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0.0, 0.0], [1.0, 1.0]])
    assert critic_loss(q, v, CriticTargets(q, v)) == 0
    assert critic_loss(q, v, CriticTargets(q + 1, v - [[2], [0]])) == pytest.approx(1 + 1 + 4)
    assert critic_loss(q[:, :0], v[:, :0], CriticTargets(q[:, :0], v[:, :0])) == 0


def test_advantage_takes_the_lower_of_each_pair():
    q, v = np.array([[0.9, 5.0], [0.1, 5.0]]), np.array([[0.2, 5.0], [0.8, 5.0]])
    np.testing.assert_allclose(advantages(q, v), [-0.1, 0])  # of differences it would be -0.7


def test_target_moves_by_tau():
    np.testing.assert_allclose(update_target(np.array([1.0]), np.array([2.0])), [1.1])


@given(st.lists(st.tuples(NUMBER, st.lists(st.tuples(NUMBER, NUMBER), max_size=3)), max_size=5))
@settings(max_examples=60, deadline=None)
def test_actor_loss_is_its_definition(batch):
    advantage = np.array([row[0] for row in batch], float)
    logprobs = ragged([one for one, _ in tokens] for _, tokens in batch)
    baseline = ragged([other for _, other in tokens] for _, tokens in batch).values
    plain, found = actor_loss(advantage, logprobs), actor_loss(advantage, logprobs, baseline=baseline)
    np.testing.assert_allclose(plain.terms, [-a * sum(p for p, _ in tokens) for a, tokens in batch], atol=1e-12)
    terms = [-sum((a - b) * p for p, b in tokens) for a, tokens in batch]
    errors = [(a - b) ** 2 for a, tokens in batch for _, b in tokens]
    np.testing.assert_allclose(found.terms, terms, atol=1e-12)
    assert found.loss == pytest.approx(np.mean(terms) if terms else 0, abs=1e-12)
    assert found.baseline_loss == pytest.approx(np.mean(errors) if errors else 0, abs=1e-12)
    assert np.isnan(plain.baseline_loss)


def test_vectors_without_a_fresh_utterance_take_the_stored_one():
    heads = {"q1": 0.5, "q2": 0.4, "v1": 0.1, "v2": 0.2, "target_v_next1": 0.0, "target_v_next2": 0.0}
    node = {"task": "t", "traj": "a", "id": "a", "parent": "r", **heads, "target_q_pi1": 0.0, "target_q_pi2": 0.0}
    found = answer({"gamma": 0.9}, {"nodes": [{"task": "t", "id": "r", "parent": None}, node]})
    assert found["advantage"]["a"] == pytest.approx(0.3)
    assert found["utterance_pg_term"]["a"] == 0
    assert found["mc_return"]["a"] == 0


def test_trees_are_credited_step_by_step():
    #     0
    #   1   3     3 is rendered
    #   2   4     of 4 the critic says nothing
    kind = (0, 1, 1, 0, 1)
    trees = labelled_trees(
        (-1, 0, 1, 0, 3), (NA,) * 5, kind=kind, critic_q=(9, 0.5, 0.25, 0.75, NA), critic_v=(9, 0.25, 0.75, 0.5, 0.5)
    )
    found = METHODS["archer"].function(trees, ArcherParams())
    np.testing.assert_array_equal(found.advantage, [0, 0.25, -0.5, 0, NA])
    np.testing.assert_array_equal(found.value, [NA, 0.5, 0.25, NA, NA])
    twins = advantages(np.array([[0.5, 0.25], [0.6, 0.9]]), np.array([[0.25, 0.75], [0.25, 0.8]]))
    np.testing.assert_array_equal(found.advantage[1:3], twins)
