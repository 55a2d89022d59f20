"""PURE: the least step reward, baselines, closing tokens, and the second implementation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_trees import NA, labelled_trees

from pipeline.credit.pure import PureParams, pure, pure_credit, pure_padded
from pipeline.credit.ragged import ragged, split
from pipeline.errors import BadConfig, BadTable

PLAIN = {"advantage_whitening": False, "kl_coef": 0.0}


def credit(group, groups=None, log_ratios=None, **params):
    """Of triples: step rewards, tokens of the steps, whether solved."""
    scores, sizes = (ragged(one[side] for one in group) for side in (0, 1))
    return pure(
        *scores,
        token_counts=sizes.values.astype(np.int64),
        solved=np.array([one[2] for one in group], np.float64),
        groups=np.array([0] * len(group) if groups is None else groups),
        log_ratios=log_ratios,
        params=PureParams(**(PLAIN | params)),
    )


STEPS = st.lists(st.tuples(st.floats(-0.99, 0.99), st.integers(0, 3)), max_size=5)
MEMBER = st.tuples(STEPS, st.integers(0, 1)).map(lambda one: ([s for s, _ in one[0]], [n for _, n in one[0]], one[1]))
GROUP = st.lists(MEMBER, min_size=1, max_size=5)


def test_a_cold_sum_is_the_least():
    found = credit([([0.9, -0.4, 0.3], [1, 1, 1], 1)], temperature=1e-3)
    assert found.outcome[0] == pytest.approx(-0.4)


def test_one_step_keeps_its_reward():
    assert credit([([0.37], [2], 1)]).weighted.tolist() == [0.37]


def test_good_steps_do_not_raise_the_return():
    few, more = credit([([-0.5, 0.9], [1, 1], 1)]), credit([([-0.5, 0.9, 0.9, 0.9], [1] * 4, 1)])
    assert more.outcome[0] <= few.outcome[0] + 1e-4


def test_a_plain_sum():
    found = credit([([0.9, 0.3], [1, 1], 1)], weighted=False, average=False)
    assert found.weighted.tolist() == [0.9, 0.3]
    assert found.outcome.tolist() == pytest.approx([1.2])


def test_uniform_weights():
    assert credit([([0.9, 0.3], [1, 1], 1)], weighted=False).weighted.tolist() == [0.45, 0.15]


@given(st.lists(st.lists(st.floats(-0.9, 0.9), min_size=2, max_size=2), min_size=2, max_size=5))
@settings(max_examples=40, deadline=None)
def test_step_baseline_sums_to_nothing(scores):
    found = credit([(some, [2, 1], 1) for some in scores], baseline="step", reward_mode="PRM")
    assert found.token_rewards.sum() == pytest.approx(0, abs=1e-9)


@given(GROUP, GROUP, st.sampled_from(["PRM", "VR", "PRMVR"]), st.sampled_from(["token", "step"]))
@settings(max_examples=60, deadline=None)
def test_a_task_is_alone_and_has_no_order(here, there, mode, baseline):
    words = {"reward_mode": mode, "baseline": baseline}
    alone = credit(here, **words)
    both = credit([*there, *here], [3] * len(there) + [1] * len(here), **words)
    np.testing.assert_array_equal(both.advantages[len(both.advantages) - len(alone.advantages) :], alone.advantages)
    turned = credit(here[::-1], **words)
    for mine, other in zip(split(alone.advantages, alone.offsets), split(turned.advantages, turned.offsets)[::-1]):
        np.testing.assert_allclose(mine, other, atol=1e-9)
    assert np.isfinite(credit(here, advantage_whitening=True, **words).advantages).all()


def test_token_baseline_of_two():
    found = credit([([0.5], [3], 1), ([-0.25], [2], 0)], reward_mode="PRM")
    # what the other earns a token, off each token but the closing one
    np.testing.assert_allclose(found.token_rewards, [0, 0, 0.5 + 0.125 * 2, 0, -0.25 - 0.5 / 3], atol=1e-12)
    np.testing.assert_allclose(found.advantages, [0.75, 0.75, 0, -0.25 - 0.5 / 3, 0], atol=1e-12)


def test_closing_tokens_have_no_advantage_unless_asked():
    group = [([0.5, 0.5], [2, 1], 1), ([-0.5], [2], 0)]
    assert credit(group, advantage_whitening=True).advantages[[1, 2, 4]].tolist() == [0, 0, 0]
    assert (credit(group, zero_advantage_on_step_end=False).advantages != 0).all()


def test_verdicts_alone():
    found = credit([([NA], [2], 1), ([NA], [2], 0), ([NA], [2], NA)], reward_mode="VR", verifiable_coef=2.0)
    np.testing.assert_allclose(found.token_rewards[1::2], [1, -2, 1], atol=1e-12)
    assert found.outcome.tolist() == [0, 0, 0]
    alike = credit([([NA], [2], 0), ([NA], [3], 0)], reward_mode="VR", advantage_whitening=True)
    assert not alike.advantages.any()


def test_a_group_of_one_has_no_baseline():
    found = credit([([0.5], [2], 0)])
    assert found.token_rewards.tolist() == [0, 0.5 - 1]


def test_empty_steps_and_trajectories_do_not_count():
    found = credit([([0.5, -0.9, 0.1], [2, 0, 1], 1), ([], [], 0)], reward_mode="PRM")
    whole = credit([([0.5, 0.1], [2, 1], 1), ([], [], 0)], reward_mode="PRM")
    assert found.kept.tolist() == [0, 2]
    assert found.advantages.tolist() == whole.advantages.tolist()
    assert found.outcome[1] == 0


def test_whitening_counts_tokens_that_close_nothing():
    group = [([0.5], [3], 1), ([-0.5], [3], 0)]
    plain, white = credit(group), credit(group, advantage_whitening=True)
    raw = plain.advantages
    mean = raw.sum() / 4
    scale = np.sqrt(((raw - mean) ** 2).sum() / 4)
    expected = np.where(np.arange(6) % 3 == 2, 0, (raw - mean) / scale)
    np.testing.assert_allclose(white.advantages, expected, atol=1e-12)


def test_divergence_is_taken_off_each_token():
    ratios = ragged([[0.1, 0.2], [0.0, -0.3]])
    group = [([0.5], [2], 1), ([0.5], [2], 1)]
    with_it, without = credit(group, log_ratios=ratios, kl_coef=0.5), credit(group)
    np.testing.assert_allclose(with_it.token_rewards, without.token_rewards - 0.5 * ratios.values, atol=1e-12)
    with pytest.raises(BadTable, match="row 1: the list of log-ratios has 1 numbers, the trajectory has 2"):
        credit(group, log_ratios=ragged([[0.1, 0.2], [0.0]]))


class TestPadded:
    def padded(self, rewards, groups=(0, 0), **options):
        flat = ragged(rewards)
        mask = options.pop("mask", np.ones(len(flat.values), bool))
        return pure_padded(flat, mask, groups=np.array(groups), **options)

    def test_minima_see_the_padding(self):
        _, found = self.padded([[0.5, 0.2], [0.4]], returns="min", groups=(0, 1))
        np.testing.assert_allclose(found, [0.2, 0.2, 0.0], atol=1e-12)
        _, wider = self.padded([[0.5, 0.2], [0.4]], returns="min", groups=(0, 1), width=3)
        assert wider.tolist() == [0, 0, 0]

    def test_baseline_is_over_the_width(self):
        _, found = self.padded([[1.0, 0.0], [0.0, 1.0, 0.0]], width=4)
        np.testing.assert_allclose(found, np.array([1, 0, 1, 1, 0]) - np.array([2, 2, 1, 1, 1]) / 4, atol=1e-12)

    def test_outside_the_mask_nothing_is_earned(self):
        mask = np.array([True, False, True, True])
        advantages, found = self.padded([[0.0, 9.0, 1.0], [0.0]], mask=mask)
        np.testing.assert_allclose(found, [1, 0, 1, -1], atol=1e-12)
        np.testing.assert_array_equal(advantages, found)

    def test_whitening_is_over_the_mask(self):
        advantages, found = self.padded([[1.0], [0.0, 0.0]], whiten=True)
        spread = np.sqrt(found.var(ddof=1) + 1e-8)
        np.testing.assert_allclose(advantages, (found - found.mean()) / spread, atol=1e-12)

    def test_errors(self):
        with pytest.raises(BadConfig, match="width 1 is less"):
            self.padded([[1.0, 1.0], []], width=1)
        with pytest.raises(BadConfig, match="median"):
            self.padded([[1.0], []], returns="median")


class TestTrees:
    def test_credit_is_that_of_the_trajectories(self):
        #     0       the question
        #   1   2     two rollouts, whose second steps are 3 and 4; 5 has no label, 6 no verdict
        soft = (NA, 0.9, 0.8, 0.2, 0.7, NA, 0.5)
        trees = labelled_trees(
            (-1, 0, 0, 1, 2, 0, 0), (NA, NA, NA, 0, 1, 1, NA), sizes=(4, 2, 1, 2, 3, 1, 1), step_soft=soft
        )
        params = PureParams(**PLAIN)
        found = pure_credit(trees, params)
        direct = credit([([0.8, -0.6], [2, 2], 0), ([0.6, 0.4], [1, 3], 1)])
        tokens = split(found.token_advantages, trees.token_offsets)
        np.testing.assert_allclose(np.concatenate([tokens[row] for row in (1, 3, 2, 4)]), direct.advantages, atol=1e-12)
        assert tokens[0].tolist() == [0] * 4
        assert np.isnan(found.advantage).tolist() == [False] * 5 + [True] * 2
        np.testing.assert_allclose(found.advantage[1], tokens[1].mean(), atol=1e-12)

    def test_step_rewards_need_no_verdict(self):
        trees = labelled_trees((-1, 0, 0), (NA, NA, NA), sizes=(1, 2, 2), step_soft=(NA, 0.9, 0.1))
        found = pure_credit(trees, PureParams(reward_mode="PRM", **PLAIN))
        np.testing.assert_allclose(found.token_advantages, [0, 1.2, 0, -1.2, 0], atol=1e-12)

    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_verdicts_of_a_share_of_the_tasks(self, seed):
        # two tasks alike, each with a right and a wrong answer; a third answer of the first was not judged
        trees = labelled_trees(
            (-1, 0, 0, 0, -1, 4, 4),
            (NA, 1, 0, NA, NA, 1, 0),
            sizes=(1, 2, 2, 2, 1, 2, 2),
            tree=[0, 0, 0, 0, 1, 1, 1],
            step_soft=(NA, *[0.5] * 3, NA, *[0.5] * 2),
        )
        found = pure_credit(trees, PureParams(verifiable_share=0.5, verifiable_seed=seed, **PLAIN)).advantage
        known = [row for row in (1, 5) if found[row] > 0]
        assert len(known) == 1
        assert np.isnan(found[3]) == (known == [1])  # where verdicts are not known, none is needed
        other = {1: [5, 6], 5: [1, 2, 3]}[known[0]]
        assert not found[other].any()

    def test_verdicts_need_no_label(self):
        trees = labelled_trees((-1, 0, 0), (NA, 1, 0), sizes=(1, 2, 2), step_soft=(NA, NA, NA))
        found = pure_credit(trees, PureParams(reward_mode="VR", **PLAIN))
        np.testing.assert_allclose(found.token_advantages, [0, 1, 0, -1, 0], atol=1e-12)

    def test_a_shared_step_has_the_mean(self):
        trees = labelled_trees((-1, 0, 1, 1), (NA, NA, 1, 0), sizes=(1, 1, 2, 2), step_soft=(NA, NA, NA, NA))
        found = pure_credit(trees, PureParams(reward_mode="VR", zero_advantage_on_step_end=False, **PLAIN))
        np.testing.assert_allclose(found.advantage, [0, 0, 1, -1], atol=1e-12)


@pytest.mark.parametrize(
    "params", [{"reward_mode": "ORM"}, {"baseline": "mean"}, {"temperature": 0.0}, {"verifiable_share": 1.5}]
)
def test_unknown_words_are_named(params):
    with pytest.raises(BadConfig, match=str(next(iter(params.values())))):
        PureParams(**params)
