"""R3L: amplified advantages, pivot masks, records and the loss."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_trees import NA, labelled_trees

from pipeline.builders.r3l import Episode, RecordParams, Trial, r3l_records
from pipeline.credit.r3l import (
    R3lParams,
    amplified_advantages,
    from_first_action,
    group_baselines,
    may_replay,
    opmd_loss,
    pivot_masks,
    r3l_credit,
    replay_priorities,
    settle_pivots,
)
from pipeline.errors import BadConfig
from pipeline.variants.reflect import INVALID, Reflection

BLAMED = Reflection(valid=True, perfect=False, pivot=1, report="{}")
PERFECT = Reflection(valid=True, perfect=True, report="{}")
REWARDS = st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.9, 1.0, NA]), min_size=1, max_size=8)


def scores(rewards, **params) -> list[float]:
    return amplified_advantages(np.array(rewards, float), np.zeros(len(rewards), int), R3lParams(**params)).tolist()


@pytest.mark.parametrize(
    ("rewards", "params", "expected"),
    [
        pytest.param([0, 0, 0], {}, [0, 0, 0], id="all fail"),
        pytest.param([1, 1, 1], {}, [1, 1, 1], id="all succeed"),
        pytest.param([1], {}, [1], id="alone and right"),
        pytest.param([0.5], {}, [1.5], id="alone and half right: no baseline"),
        pytest.param([0.1] * 3, {}, [0, 0, 0], id="equal partial rewards"),
        pytest.param([0.9, 0, 0], {}, [1.8, -0.3, -0.3], id="a partial reward may get more than a full one"),
        pytest.param([1, 0], {"alpha": 1, "max_reward_advantage": None}, [0.5, -0.5], id="the mean-only base"),
        pytest.param([2, 1], {"max_reward": 2.0}, [1, -0.5], id="another full reward"),
        pytest.param([1, 0], {"max_reward_advantage": 0.25}, [0.25, -0.5], id="another advantage of a full one"),
        pytest.param([1, NA, 0], {}, [1, NA, -0.5], id="unjudged takes no part"),
        pytest.param([0.5, NA], {}, [1.5, NA], id="one judged is alone"),
    ],
)
def test_advantages(rewards, params, expected):
    np.testing.assert_allclose(scores(rewards, **params), expected, atol=1e-12)


def test_the_soft_baseline():
    rewards = np.array([0.0, 0.5, 0.5, 0.25])
    found = group_baselines(rewards, np.array([0, 0, 0, 1]), R3lParams(baseline="logavgexp", tau=0.5))
    np.testing.assert_allclose(found, [0.5 * np.log((1 + 2 * np.e) / 3), 0.0])
    far = group_baselines(np.array([0.0, 1000.0]), np.zeros(2, int), R3lParams(baseline="logavgexp"))
    np.testing.assert_allclose(far, [1000 - np.log(2)])


@given(REWARDS, st.randoms(use_true_random=False), st.sampled_from(["mean", "logavgexp"]))
@settings(max_examples=60, deadline=None)
def test_order_does_not_matter_nor_other_tasks(rewards, random, baseline):
    params, values = R3lParams(baseline=baseline), np.array(rewards)
    order = np.array(random.sample(range(len(rewards)), len(rewards)))
    alone = amplified_advantages(values, np.zeros(len(values), int), params)
    assert np.isfinite(alone[~np.isnan(values)]).all()
    both = amplified_advantages(
        np.concatenate([values[order], [0.7, 0.2]]), np.array([0] * len(values) + [1, 1]), params
    )
    np.testing.assert_allclose(both[:-2], alone[order], atol=1e-12)


@pytest.mark.parametrize(
    ("pivot", "expected"),
    [(0, "110111011"), (1, "000111011"), (2, "000000011"), (3, "000000000"), (9, "000000000")],
)
def test_pivot_masks(pivot, expected):
    mask = np.array([one == "1" for one in "110111011"])
    found = pivot_masks(np.concatenate([mask, mask]), np.array([0, 9, 9, 18]), np.array([pivot, 5, 0]))
    assert "".join("01"[one] for one in found[:9].astype(int)) == expected
    assert found[9:].tolist() == mask.tolist()


def test_masks_of_adjacent_trajectories_do_not_run_together():
    assert pivot_masks(np.ones(4, bool), np.array([0, 2, 4]), np.array([0, 1])).tolist() == [True, True, False, False]
    assert pivot_masks(np.zeros(0, bool), np.array([0, 0]), np.array([1])).tolist() == []


def test_a_mask_begins_at_the_first_action():
    assert from_first_action(np.array([0, 0, 1, 0, 1, 0])).tolist() == [True, False, True, False]
    assert from_first_action(np.array([0, 0])).tolist() == []


@pytest.mark.parametrize(
    ("pivots", "sources", "expected"),
    [
        pytest.param([-1, 2], [-1, 0], [2, 2], id="the attempt takes its retry's"),
        pytest.param([1, 2], [-1, 0], [1, 2], id="its own goes before"),
        pytest.param([-1, -1], [-1, 0], [0, 0], id="none anywhere"),
        pytest.param([3, -1, 2], [1, -1, 1], [3, 2, 2], id="the earliest of two retries"),
    ],
)
def test_pivots(pivots, sources, expected):
    assert settle_pivots(np.array(pivots), np.array(sources)).tolist() == expected


class TestLoss:
    LOGPROBS, ADVANTAGES = np.array([-1.0, -2.0, -4.0]), np.array([1.0, 1.0, -1.0])

    def loss(self, mask, **options):
        return opmd_loss(self.LOGPROBS, self.ADVANTAGES, np.array(mask, bool), np.array([0, 2, 3]), **options)

    def test_mean_over_tokens(self):
        assert self.loss([1, 1, 1]) == pytest.approx((1 + 2 - 4) / 3 / 2)
        assert self.loss([1, 0, 0], tau=0) == pytest.approx(1)

    def test_nothing_trained(self):
        assert self.loss([0, 0, 0]) == 0

    def test_by_sequence(self):
        assert self.loss([1, 1, 1], agg="seq-mean-token-sum") == pytest.approx((3 - 4) / 2 / 2)
        assert self.loss([1, 1, 1], agg="seq-mean-token-mean") == pytest.approx((1.5 - 4) / 2 / 2)

    def test_unknown_tokens_are_left_out(self):
        found = opmd_loss(np.array([-1.0, NA, -3.0]), np.array([1.0, 1.0, NA]), np.ones(3, bool), np.array([0, 3]))
        assert found == pytest.approx(1 / 2)

    def test_unknown_aggregation(self):
        with pytest.raises(BadConfig, match="token-mean"):
            self.loss([1, 1, 1], agg="sum")


class TestRecords:
    def episode(self, reward, *runs):
        mask = "00".join("1" * count for count in runs)
        return Episode(reward, len(runs), np.array([one == "1" for one in mask]))

    def trial(self, base, reflection=BLAMED, retry=None):
        return Trial(self.episode(*base), reflection, None if retry is None else self.episode(*retry), 3)

    def kinds(self, *trials, **params):
        return [record.kind for record in r3l_records("q", trials, RecordParams(**params))]

    @pytest.mark.parametrize(
        ("base", "reflection", "retry", "more"),
        [
            pytest.param((0, 1, 1), BLAMED, (1, 1, 1), ["distilled_retry", "reflection", "guided_retry"], id="mended"),
            pytest.param((0, 1, 1), BLAMED, (0.9, 1), ["distilled_retry"], id="no full success"),
            pytest.param((1, 1, 1), BLAMED, (1, 1), ["distilled_retry", "reflection", "guided_retry"], id="shorter"),
            pytest.param((1, 1, 1), BLAMED, (1, 1, 1), ["distilled_retry"], id="no better and no shorter"),
            pytest.param((0, 1), INVALID, (1, 1), [], id="a stored retry is ignored: invalid"),
            pytest.param((0, 1), PERFECT, (1, 1), [], id="a stored retry is ignored: held for a success"),
            pytest.param((1, 1), PERFECT, None, ["reflection"], id="a success seen as one"),
            pytest.param((0, 1, 1), BLAMED, None, [], id="no retry came"),
            pytest.param((NA, 1, 1), BLAMED, (NA, 1), ["distilled_retry"], id="unjudged"),
        ],
    )
    def test_what_is_kept(self, base, reflection, retry, more):
        assert self.kinds(self.trial(base, reflection, retry)) == ["base", *more]

    def test_mathematics_counts_no_turns_and_masks_none(self):
        trial = self.trial((1, 1, 1), BLAMED, (1, 1))
        records = r3l_records("q", [trial], RecordParams(domain="math"))
        assert [record.kind for record in records] == ["base", "distilled_retry"]
        assert [record.action_mask.tolist() for record in records] == [[True, False, False, True], [True]]

    def test_groups_runs_and_masks(self):
        records = r3l_records("q", [self.trial((0, 1, 1)), self.trial((0, 1, 2), BLAMED, (1, 1, 3))])
        assert [(record.group, record.run) for record in records] == [
            *[("q_explore", 0), ("q_explore", 1), ("q_explore", 2)],
            *[("q_reflect_1", 3), ("q_retry_1", 4)],
        ]
        assert [record.source_run for record in records] == [None, None, 1, 1, 1]
        assert records[0].action_mask.tolist() == [True, False, False, True]
        assert records[1].action_mask.tolist() == [False, False, False, True, True]
        assert records[2].action_mask.tolist() == records[4].action_mask.tolist() == [False] * 3 + [True] * 3

    def test_shared_turns_of_equal_length_lose_as_many_tokens(self):
        base, retry = r3l_records("q", [self.trial((0, 3, 1), BLAMED, (0.5, 3, 4))])
        assert 4 - base.action_mask.sum() == 7 - retry.action_mask.sum() == 3

    def test_half_of_the_rollouts_are_attempts(self):
        trials = [self.trial((0, 1), INVALID)] * 9
        assert len(self.kinds(*trials)) == 4
        assert len(self.kinds(*trials, repeat_times=5)) == 2

    def test_unknown_domain(self):
        with pytest.raises(BadConfig, match="interactive"):
            RecordParams(domain="chess")


#      0        the question
#    1 3 5      samples and a retry, two steps each
#    2 4 6
def test_stored_attempts_and_retries_are_one_group():
    trees = labelled_trees([-1, 0, 1, 0, 3, 0, 5], [NA, NA, 0, NA, 1, NA, NA])
    found = r3l_credit(trees)
    np.testing.assert_allclose(found.advantage, [0, -0.5, -0.5, 1, 1, NA, NA])
    assert found.mask.tolist() == [False, True, True, True, True, False, False]


#    0       the question
#    1       the step a retry shares with its attempt
#   2 3      where they part
def test_a_shared_step_is_masked():
    found = r3l_credit(labelled_trees([-1, 0, 1, 1], [NA, NA, 0, 1]))
    np.testing.assert_allclose(found.advantage, [0, 0, -0.5, 1])
    assert found.mask.tolist() == [False, False, True, True]


def test_trees_are_groups_of_their_own():
    found = r3l_credit(labelled_trees([-1, 0, -1, 2], [NA, 0.5, NA, 0.25], tree=[0, 0, 1, 1]))
    np.testing.assert_allclose(found.advantage, [0, 1.5, 0, 0.75])


def test_replay():
    assert replay_priorities(np.array([5, 5]), np.array([0, 2])).tolist() == [5, 1]
    assert may_replay(np.array([0, 2, 3])).tolist() == [True, True, False]


@pytest.mark.parametrize("params", [{"baseline": "median"}, {"tau": 0}])
def test_bad_parameters(params):
    with pytest.raises(BadConfig):
        R3lParams(**params)
