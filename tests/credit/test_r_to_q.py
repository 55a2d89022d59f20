"""From r to Q*: the identities between rewards, values and log-ratios."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_trees import NA, labelled_trees

from pipeline.credit import METHODS
from pipeline.credit.r_to_q import RToQParams, implicit_rewards, q_from_logits
from pipeline.credit.ragged import ragged
from pipeline.errors import BadConfig, BadTable

LOGPROBS = st.floats(-9, 0)
STEPS = st.lists(st.lists(st.tuples(LOGPROBS, LOGPROBS), max_size=5), max_size=5)


def rewards_of(steps, responses=None, beta=0.1):
    policy, reference = (ragged([pair[side] for pair in step] for step in steps) for side in (0, 1))
    ends = np.array([0, len(steps)] if responses is None else responses)
    return implicit_rewards(policy, reference, steps=ends, params=RToQParams(beta))


@given(STEPS)
@settings(max_examples=60, deadline=None)
def test_rewards_sum_to_the_reward_of_the_sequence(steps):
    found = rewards_of(steps)
    pairs = [pair for step in steps for pair in step]
    total = 0.1 * (sum(mine for mine, _ in pairs) - sum(other for _, other in pairs))
    np.testing.assert_allclose(found.sequence_rewards, [total], atol=1e-9)
    np.testing.assert_allclose(found.step_rewards.sum(), total, atol=1e-9)
    rest = found.reward_to_go - found.token_rewards + found.value_change
    np.testing.assert_allclose(rest, np.full(len(pairs), total), atol=1e-9)


@given(STEPS, STEPS)
@settings(max_examples=40, deadline=None)
def test_a_response_is_alone_in_its_batch(one, other):
    both = rewards_of([*one, *other], [0, len(one), len(one) + len(other)])
    for name in ("token_rewards", "value_change", "reward_to_go", "step_rewards", "step_end_value_change"):
        apart = [getattr(rewards_of(steps), name) for steps in (one, other)]
        np.testing.assert_array_equal(getattr(both, name), np.concatenate(apart))


def test_equal_models_give_nothing():
    found = rewards_of([[(-1.5, -1.5)], [(-0.1, -0.1), (-3.0, -3.0)]])
    assert not any(column.any() for column in found)


def test_empty_steps_repeat_the_value_before():
    found = rewards_of([[], [(-1.0, -2.0)], [], [(-2.0, -1.0)], []], beta=1.0)
    assert found.step_rewards.tolist() == [0, 1, 0, -1, 0]
    assert found.step_end_value_change.tolist() == [0, 1, 1, 0, 0]


def test_a_token_in_one_model_only():
    with pytest.raises(BadTable, match="row 1: the policy has 1 numbers, the reference has 2"):
        implicit_rewards(ragged([[-1.0], [-1.0]]), ragged([[-1.0], [-1.0, -1.0]]), steps=np.array([0, 2]))


class TestSoftQ:
    @given(st.integers(0, 2**31), st.floats(0.01, 2), st.integers(0, 4), st.integers(0, 4))
    @settings(max_examples=60, deadline=None)
    def test_bellman_rewards_sum_to_log_ratios_and_the_start(self, seed, beta, first, second):
        draw = np.random.default_rng(seed)
        logits, reference = draw.normal(size=(2, first + second, 4))
        actions, offsets = draw.integers(0, 4, first + second), np.array([0, first, first + second])
        options = RToQParams(beta)
        found = q_from_logits(logits, reference, actions=actions, offsets=offsets, params=options)
        np.testing.assert_allclose(found.bellman_less_start, found.sequence_rewards, atol=1e-9)
        np.testing.assert_allclose(found.advantage, found.q_taken - found.value, atol=1e-9)
        shifted = logits + draw.normal(size=(first + second, 1))
        moved = q_from_logits(shifted, reference, actions=actions, offsets=offsets, params=options)
        np.testing.assert_allclose(moved.token_rewards, found.token_rewards, atol=1e-9)

    def test_large_logits_stay_finite(self):
        logits = np.array([[1e4, -1e4]])
        found = q_from_logits(logits, -logits, actions=np.array([0]), offsets=np.array([0, 1]))
        assert found.value[0] == pytest.approx(1e3)
        assert found.token_rewards[0] == pytest.approx(2e3)

    def test_errors_name_the_row(self):
        logits = np.zeros((2, 3))
        with pytest.raises(BadTable, match="row 1: token 3 is not among 3 logits"):
            q_from_logits(logits, logits, actions=np.array([0, 3]), offsets=np.array([0, 2]))
        with pytest.raises(BadTable, match="do not fit"):
            q_from_logits(logits, logits[:, :2], actions=np.array([0, 1]), offsets=np.array([0, 2]))


@pytest.mark.parametrize("beta", [-0.1, float("nan"), float("inf")])
def test_beta_is_a_weight(beta):
    with pytest.raises(BadConfig, match="r_to_q beta"):
        RToQParams(beta)


def test_trees_are_rewarded_token_by_token():
    #     0      the question
    #     1
    #   2   3    of 3 a token is unknown
    trees = labelled_trees(
        (-1, 0, 1, 1),
        (NA,) * 4,
        sizes=(1, 2, 1, 2),
        kind=(0, 1, 1, 1),
        tuned_logprobs=(NA, -1, -2.5, -1, -3, NA),
        reference_logprobs=(NA, -2, -2, -2, -2, -2),
    )
    found = METHODS["r_to_q"].function(trees, RToQParams(0.5))
    np.testing.assert_allclose(found.token_advantages, [0, 0.5, -0.25, 0.5, -0.5, NA], atol=1e-12)
    np.testing.assert_allclose(found.advantage, [0, 0.25, 0.5, NA], atol=1e-12)
    np.testing.assert_allclose(found.value, [NA, 0.25, 0.75, NA], atol=1e-12)
    direct = rewards_of([[(-1, -2), (-2.5, -2)], [(-1, -2)]], beta=0.5)
    np.testing.assert_allclose(found.token_advantages[1:4], direct.token_rewards, atol=1e-12)
    np.testing.assert_allclose(found.value[1:3], direct.step_end_value_change, atol=1e-12)
