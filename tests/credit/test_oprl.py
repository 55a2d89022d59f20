"""OPRL against its direct definition, and what must hold of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_trees import NA, labelled_trees

from pipeline.credit import METHODS
from pipeline.credit.oprl import (
    BASELINES,
    ESTIMATORS,
    OprlParams,
    preference_pairs,
    prm_loss,
    step_advantages,
    step_rewards,
    trajectory_scores,
)
from pipeline.credit.ragged import ragged
from pipeline.errors import BadConfig
from pipeline.golden.oprl import answer

RATIO = st.sampled_from([-0.5, 0.0, 0.1, 0.2, 1.0])
STEP = st.lists(RATIO, max_size=3)
BATCH = st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0.0, 0.1, 1.0]), st.lists(STEP, max_size=4)), max_size=7)
PARAMS = st.builds(
    OprlParams, estimator=st.sampled_from(ESTIMATORS), baseline=st.sampled_from(BASELINES), ddof=st.sampled_from([0, 1])
)


def run(batch, params=None):
    """Rewards and advantages of trajectories as task, outcome and steps of log-ratios."""
    params = params or OprlParams()
    ratios = ragged(step for *_, steps in batch for step in steps)
    rewards = step_rewards(ratios, params=params)
    offsets = np.cumsum([0, *[len(steps) for *_, steps in batch]], dtype=np.int64)
    tasks, outcomes = (np.array([row[place] for row in batch], kind) for place, kind in ((0, np.int64), (1, float)))
    found = step_advantages(
        rewards.normalised,
        outcomes,
        offsets=offsets,
        tasks=tasks,
        token_counts=np.diff(ratios.offsets),
        params=params,
    )
    return rewards, found


def scaled(value, members, params):
    code = params.baseline == "first_steps"
    if len(members) == 1 and code:
        return value / (1 + params.epsilon) if params.estimator == "mean_std_norm" else value
    less = value - np.mean(members)
    less = 0.0 if abs(less) < 1e-9 else less
    if params.estimator == "rloo":
        return less * (len(members) / (len(members) - 1) if len(members) > 1 else 1)
    if params.estimator == "mean_std_norm":
        return less / ((np.std(members, ddof=params.ddof) if len(members) > 1 else 0.0) + params.epsilon)
    return less


@given(BATCH, PARAMS)
@settings(max_examples=100, deadline=None)
def test_is_its_definition(batch, params):
    raw = [[0.05 * sum(step) for step in steps] for *_, steps in batch]
    divisor = max([abs(reward) for rows in raw for reward in rows], default=0) + 1e-6
    rows = [[reward / divisor for reward in some] for some in raw]
    advantage, sizes = [], []
    for (task, outcome, steps), own in zip(batch, rows, strict=True):
        group = [place for place, row in enumerate(batch) if row[0] == task]
        pool = [
            reward
            for place in group
            for reward in (rows[place][:1] if params.baseline == "first_steps" else rows[place])
        ]
        for reward, step in zip(own, steps, strict=True):
            episode = scaled(outcome, [batch[place][1] for place in group], params)
            advantage.append(episode + scaled(reward, pool, params))
            sizes.append(len(step))
    if params.estimator == "reinforce_pp":
        tokens = np.repeat(advantage, sizes)
        spread = np.var(tokens, ddof=params.ddof) if len(tokens) > params.ddof else np.inf
        middle = tokens.mean() if len(tokens) > params.ddof else 0.0
        advantage = (np.array(advantage) - middle) / np.sqrt(spread + 1e-8)
    rewards, found = run(batch, params)
    np.testing.assert_allclose(rewards.normalised, [reward for some in rows for reward in some], atol=1e-9)
    np.testing.assert_allclose(found.advantage, advantage, rtol=1e-6, atol=1e-6)
    assert (np.abs(rewards.normalised) <= 1).all()
    assert np.isfinite(found.advantage).all()


@given(BATCH, st.randoms())
@settings(max_examples=30, deadline=None)
def test_order_and_other_tasks_do_not_matter(batch, random):
    params = OprlParams(step_norm="none", estimator="rloo", baseline="first_steps")
    whole = run(batch, params)[1].advantage
    bounds = np.cumsum([0, *[len(steps) for *_, steps in batch]])
    order = list(range(len(batch)))
    random.shuffle(order)
    for kept in (order, [place for place in order if batch[place][0] == 1]):
        rows = [row for place in kept for row in range(bounds[place], bounds[place + 1])]
        np.testing.assert_allclose(run([batch[place] for place in kept], params)[1].advantage, whole[rows], atol=1e-9)


class TestWorksWhen:
    BATCH = ((0, 1.0, [[0.2], [0.5, 0.1]]), (0, 0.0, [[-0.1]]), (0, 1.0, [[0.0], [0.3], [0.3]]))

    def test_no_log_ratio_leaves_the_episode(self):
        _, found = run([(task, outcome, [[0.0] for _ in steps]) for task, outcome, steps in self.BATCH])
        assert found.advantage.tolist() == found.episode.tolist()
        assert not found.step.any()

    def test_scaling_log_ratios_changes_nothing(self):
        scaled_batch = [
            (task, outcome, [[7 * x for x in step] for step in steps]) for task, outcome, steps in self.BATCH
        ]
        one, other = run(self.BATCH)[0].normalised, run(scaled_batch)[0].normalised
        np.testing.assert_allclose(one, other, rtol=1e-4)

    def test_step_advantages_over_all_steps_sum_to_nothing(self):
        assert run(self.BATCH)[1].step.sum() == pytest.approx(0, abs=1e-12)

    def test_equal_outcomes_leave_the_step(self):
        _, found = run([(task, 0.1, steps) for task, _, steps in self.BATCH])
        assert not found.episode.any()
        assert found.step.any()

    def test_a_floor_keeps_rounding_small(self):
        noise = ragged([[1e-15], [-1e-15]])
        assert abs(step_rewards(noise, params=OprlParams(batch_norm_floor=1e-3)).normalised).max() < 1e-12
        assert step_rewards(noise, params=OprlParams(batch_norm_eps=0)).normalised.tolist() == [1, -1]
        assert step_rewards(ragged([[0.0]]), params=OprlParams(batch_norm_eps=0)).normalised.tolist() == [0]

    def test_a_group_of_one(self):
        lone = [(0, 3.0, [[0.2], [0.4]])]
        rewards, code = run(lone, OprlParams(estimator="rloo", baseline="first_steps"))
        np.testing.assert_allclose(code.advantage, 3 + rewards.normalised)
        rewards, product = run(lone)
        np.testing.assert_allclose(product.advantage, rewards.normalised - rewards.normalised.mean())
        assert product.degenerate.all()


class TestLoss:
    def test_equal_scores_cost_log_two(self):
        pairs = preference_pairs(np.array([1.0, 0.0]), np.array([0, 0]))
        assert prm_loss(np.array([0.3, 0.3]), pairs) == pytest.approx(np.log(2))
        assert prm_loss(np.array([0.3, 0.1]), pairs) == pytest.approx(np.log1p(np.exp(-0.2)))

    def test_no_pair_costs_nothing(self):
        assert prm_loss(np.ones(2), preference_pairs(np.array([1.0, 0.0]), np.array([0, 1]))) == 0
        assert prm_loss(np.zeros(0), preference_pairs(np.zeros(0), np.zeros(0, np.int64))) == 0

    @given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([-1.0, 0.0, 0.5, 1.0])), max_size=12))
    @settings(max_examples=60, deadline=None)
    def test_pairs_are_every_success_with_every_failure(self, rows):
        tasks, outcomes = (np.array([row[place] for row in rows], kind) for place, kind in enumerate((np.int64, float)))
        found = preference_pairs(outcomes, tasks)
        expected = [
            (one, other)
            for task in range(4)
            for one, (own, won) in enumerate(rows)
            for other, (theirs, lost) in enumerate(rows)
            if own == theirs == task and won > 0 >= lost
        ]
        assert list(zip(found.winner.tolist(), found.loser.tolist(), strict=True)) == expected

    def test_scores_are_means_or_sums(self):
        raw, offsets = np.array([1.0, 2.0, 5.0]), np.array([0, 2, 2, 3])
        assert trajectory_scores(raw, offsets).tolist() == [1.5, 0, 5]
        assert trajectory_scores(raw, offsets, params=OprlParams(score="sum")).tolist() == [3, 0, 5]


def test_vector_fields_may_be_absent_and_success_have_a_bar():
    root = {"task": "t", "id": "r", "parent": None}
    nodes = [root, *({"task": "t", "traj": name, "id": name, "parent": "r"} for name in "ab")]
    nodes[1]["outcome"] = 0.5
    assert answer({}, {"nodes": nodes})["prm_loss"] == pytest.approx(np.log(2))
    assert answer({"success_if": "outcome > 0.5"}, {"nodes": nodes})["prm_loss"] == 0
    with pytest.raises(BadConfig, match="success_if"):
        answer({"success_if": "always"}, {"nodes": nodes})


@pytest.mark.parametrize("name", ["estimator", "baseline", "step_norm", "score"])
def test_unknown_words_are_named(name):
    with pytest.raises(BadConfig, match="typo"):
        OprlParams(**{name: "typo"})


class TestTrees:
    #     0        the question
    #   1   3  5   three answers; 5 was not scored
    #   2   4
    TREES = labelled_trees(
        (-1, 0, 1, 0, 3, 0),
        (NA, NA, 1, NA, 0, 1),
        sizes=(1, 2, 1, 1, 2, 1),
        kind=(0, 1, 1, 1, 1, 1),
        prm_logprobs=(NA, -0.75, -0.75, -0.9, -1.3, -0.9, 9, NA),
        logprobs=(NA, -1, -1, -1, -1, -1, NA, -1),
    )

    def test_steps_by_hand(self):
        # log-ratios 0.5, 0.1, -0.3, 0.1, of which 0.1 is the mean; outcomes 1 and 0
        found = METHODS["oprl"].function(self.TREES, OprlParams(beta=1.0, step_norm="none"))
        np.testing.assert_allclose(found.advantage, [0, 0.9, 0.5, -0.9, -0.5, NA], atol=1e-12)

    def test_steps_are_those_of_the_trajectories(self):
        params = OprlParams(estimator="rloo", baseline="first_steps")
        _, direct = run([(0, 1.0, [[0.25, 0.25], [0.1]]), (0, 0.0, [[-0.3], [0.1]])], params)
        found = METHODS["oprl"].function(self.TREES, params)
        np.testing.assert_allclose(found.advantage[1:5], direct.advantage, atol=1e-9)

    def test_what_depends_on_the_batch(self):
        across = METHODS["oprl"].across_tasks
        assert across(OprlParams())
        assert across(OprlParams(step_norm="none", estimator="reinforce_pp"))
        assert not across(OprlParams(step_norm="none"))
