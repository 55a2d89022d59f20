"""Losses and figures of preference pairs: DPO and its kin, TDPO, T-REG; gradients by finite differences."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.credit.ragged import ragged
from pipeline.credit.t_reg import revision_request, token_rewards
from pipeline.errors import BadConfig
from pipeline.metrics.preference import (
    BASE_LOSSES,
    LOSS_TYPES,
    Preference,
    PreferenceParams,
    Side,
    TRegParams,
    dpo,
    mean_known,
    reward_metrics,
    t_reg,
    tdpo,
)

NA = float("nan")
LOGPROB = st.floats(-5, 0)
RESPONSE = st.lists(st.tuples(LOGPROB, LOGPROB), max_size=4)
PAIRS = st.lists(st.tuples(RESPONSE, RESPONSE), min_size=1, max_size=4)


def side(responses) -> Side:
    """Of responses that list log-probabilities under policy and reference, token by token."""
    policy, reference = (ragged([[token[place] for token in one] for one in responses]) for place in (0, 1))
    return Side(policy.values, policy.offsets, reference.values)


def sides(pairs) -> tuple[Side, Side]:
    return side([pair[0] for pair in pairs]), side([pair[1] for pair in pairs])


def one_pair(ratio_chosen, ratio_rejected, *, tokens=(1, 1)) -> tuple[Side, Side]:
    """A pair with given summed log-ratios, spread over some tokens."""
    return tuple(
        side([[(ratio / count, 0.0)] * count])
        for ratio, count in zip((ratio_chosen, ratio_rejected), tokens, strict=True)
    )


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


class TestDpo:
    @pytest.mark.parametrize(
        ("params", "expected"),
        [
            ({"loss_type": "sigmoid", "beta": 2.0}, -math.log(sigma(2.0))),
            ({"loss_type": "step_dpo", "beta": 2.0}, -math.log(sigma(2.0))),
            (
                {"loss_type": "sigmoid", "beta": 2.0, "label_smoothing": 0.2},
                -0.8 * math.log(sigma(2.0)) - 0.2 * math.log(sigma(-2.0)),
            ),
            (
                {"loss_type": "robust", "beta": 2.0, "label_smoothing": 0.2},
                (-0.8 * math.log(sigma(2.0)) + 0.2 * math.log(sigma(-2.0))) / 0.6,
            ),
            ({"loss_type": "hinge", "beta": 0.25}, 0.75),
            ({"loss_type": "hinge", "beta": 2.0}, 0.0),
            ({"loss_type": "ipo", "beta": 0.5}, (0.4 / 2 + 0.6 / 3 - 1.0) ** 2),
            ({"loss_type": "sigmoid_norm", "beta": 2.0}, -math.log(sigma(2.0 * 0.4))),
        ],
    )
    def test_losses(self, params, expected):
        found = dpo(*one_pair(0.4, -0.6, tokens=(2, 3)), PreferenceParams(**params))
        np.testing.assert_allclose(found.loss, [expected])
        np.testing.assert_allclose(
            [*found.rewards_chosen, *found.rewards_rejected], np.array([0.4, -0.6]) * params["beta"]
        )

    def test_published_betas(self):
        assert PreferenceParams("step_dpo").strength == 0.5
        assert {PreferenceParams(name).strength for name in LOSS_TYPES if name != "step_dpo"} == {0.1}

    def test_far_logits_do_not_overflow(self):
        found = dpo(*one_pair(-1e6, 1e6), PreferenceParams(beta=1.0))
        np.testing.assert_allclose(found.loss, [2e6])

    @pytest.mark.parametrize("loss_type", [name for name in LOSS_TYPES if not name.startswith("tdpo")])
    @given(pairs=PAIRS)
    @settings(max_examples=25, deadline=None)
    def test_pairs_do_not_touch_each_other(self, loss_type, pairs):
        params = PreferenceParams(loss_type, beta=0.3)
        together = dpo(*sides(pairs), params)
        alone = [dpo(*sides([pair]), params).loss[0] for pair in pairs]
        assert np.isfinite(together.loss).all()
        np.testing.assert_allclose(together.loss, alone, atol=1e-12)

    def test_a_shared_prefix_is_out_of_the_loss(self):
        chosen, rejected = one_pair(0.4, -0.6, tokens=(2, 3))
        masked = [
            Side(
                np.concatenate([[NA, NA], one.policy]),
                np.array([0, 2 + len(one.policy)]),
                np.concatenate([[NA, NA], one.reference]),
                trained=np.arange(2 + len(one.policy)) >= 2,
            )
            for one in (chosen, rejected)
        ]
        for loss_type in ("sigmoid", "ipo"):
            params = PreferenceParams(loss_type)
            np.testing.assert_array_equal(dpo(*masked, params).loss, dpo(chosen, rejected, params).loss)

    def test_an_unknown_token_spoils_its_pair_alone(self):
        found = dpo(*sides([([(NA, -1.0)], [(-1.0, -1.0)]), ([(-1.0, -1.0)], [(-1.0, -1.0)])]))
        assert np.isnan(found.loss[0])
        assert mean_known(found.loss) == pytest.approx(math.log(2))
        assert reward_metrics(found, beta=0.1)["rewards/margins"] == 0

    def test_metrics(self):
        found = Preference(np.zeros(3), np.array([1.0, 0.5, 0.0]), np.array([0.0, 0.5, 0.5]))
        assert reward_metrics(found, beta=1.0) == {
            "rewards/chosen": 0.5,
            "rewards/rejected": pytest.approx(1 / 3),
            "rewards/margins": pytest.approx(1 / 6),
            "rewards/accuracies": pytest.approx(1 / 3),
        }
        tie = dpo(side([[(0.1, 0.0), (0.2, 0.0)]]), side([[(0.3, 0.0)]]))
        assert reward_metrics(tie, beta=0.1)["rewards/accuracies"] == 0
        assert all(map(math.isnan, reward_metrics(dpo(*sides([])), beta=0.1).values()))

    @pytest.mark.parametrize("params", [{"loss_type": "kto"}, {"loss_type": "robust", "label_smoothing": 0.5}])
    def test_bad_parameters(self, params):
        with pytest.raises(BadConfig):
            PreferenceParams(**params)

    def test_columns_that_do_not_fit(self):
        with pytest.raises(ValueError, match="reference has 1 entries"):
            Side(np.zeros(2), np.array([0, 2]), np.zeros(1))


class TestTdpo:
    WON, LOST = (np.array([0.4]), np.array([0.3])), (np.array([-0.6]), np.array([0.8]))

    @pytest.mark.parametrize(("loss_type", "logits"), [("tdpo1", 1.0 - 0.5), ("tdpo2", 1.0 - 0.25 * 0.5)])
    def test_logits(self, loss_type, logits):
        found = tdpo(self.WON, self.LOST, PreferenceParams(loss_type, beta=2.0, alpha=0.25))
        np.testing.assert_allclose(found.loss, [-math.log(sigma(2 * logits))])
        np.testing.assert_allclose([*found.rewards_chosen, *found.rewards_rejected], [1.4, 0.4])

    def test_no_divergence_is_dpo(self):
        none = np.zeros(1)
        found = tdpo((self.WON[0], none), (self.LOST[0], none))
        np.testing.assert_array_equal(found.loss, dpo(*one_pair(0.4, -0.6)).loss)

    def test_each_refuses_the_others_loss_types(self):
        with pytest.raises(BadConfig, match="tdpo2"):
            dpo(*one_pair(0.4, -0.6), PreferenceParams("tdpo2"))
        with pytest.raises(BadConfig, match="tdpo1"):
            tdpo(self.WON, self.LOST, PreferenceParams("sigmoid"))


class TestTReg:
    PAIRS = ([(-0.5, -0.6), (-1.1, -1.0)], [(-1.0, -0.8), (-0.9, -0.9), (-0.2, -0.1)])
    REWARDS = (np.array([0.12, -0.3]), np.array([-0.2, 0.4, 0.01]))

    @given(st.lists(st.tuples(st.floats(-500, 0), st.floats(-500, 0)), max_size=6))
    @settings(max_examples=60, deadline=None)
    def test_token_rewards(self, tokens):
        better, worse = (np.array([token[place] for token in tokens]) for place in (0, 1))
        found = token_rewards(better, worse)
        assert (np.abs(found) <= 0.5).all()
        np.testing.assert_allclose(found, -token_rewards(worse, better))
        np.testing.assert_array_equal(token_rewards(better, better), np.zeros(len(tokens)))

    def test_unknown_and_unequal(self):
        np.testing.assert_array_equal(token_rewards(np.array([NA, -1.0]), np.array([-1.0, -1.0])), [NA, 0])
        with pytest.raises(ValueError, match="same tokens"):
            token_rewards(np.zeros(2), np.zeros(3))

    def test_requests_differ_and_hold_both_texts(self):
        better, worse = (revision_request("Add $x.", "{1} $y", aim=aim) for aim in ("better", "worse"))
        assert better != worse
        for asked in (better, worse):
            assert "Add $x." in asked
            assert "{1} $y" in asked

    @pytest.mark.parametrize("base_loss", BASE_LOSSES)
    @pytest.mark.parametrize("weighting", ["dpo", "static"])
    def test_gradient_by_finite_differences(self, base_loss, weighting):
        params = TRegParams(beta=0.7, alpha=0.4, sequence_weighting=weighting, base_loss=base_loss, gamma=0.3)
        both = sides([self.PAIRS])
        found = t_reg(*both, self.REWARDS, params)

        def surrogate(pair) -> float:
            """The total with the weight held where it was."""
            moved = t_reg(*pair, self.REWARDS, params)
            return float(
                moved.preference_loss[0] + 0.4 * found.weight[0] * (moved.regularisers[0] + moved.regularisers[1])[0]
            )

        for which in (0, 1):
            for place in range(len(both[which].policy)):
                change = np.zeros(len(both[which].policy))
                change[place] = 1e-5
                ends = []
                for step in (change, -change):
                    pair = list(both)
                    pair[which] = replace(both[which], policy=both[which].policy + step)
                    ends.append(surrogate(pair))
                slope = (ends[0] - ends[1]) / 2e-5
                assert found.gradients[which][place] == pytest.approx(slope, abs=1e-8)

    def test_without_the_regulariser_it_is_dpo_bit_for_bit(self):
        both = sides([self.PAIRS])
        plain = dpo(*both, PreferenceParams(beta=0.1)).loss
        for params, rewards in ((TRegParams(alpha=0.0), self.REWARDS), (TRegParams(), (np.zeros(2), np.zeros(3)))):
            np.testing.assert_array_equal(t_reg(*both, rewards, params).total, plain)

    def test_a_policy_that_is_its_reference(self):
        same = sides([([(-1.0, -1.0)], [(-0.5, -0.5)])])
        found = t_reg(*same, (np.zeros(1), np.zeros(1)))
        assert (found.weight[0], found.preference_loss[0]) == (0.5, pytest.approx(math.log(2)))

    def test_simpo(self):
        found = t_reg(*sides([self.PAIRS]), self.REWARDS, TRegParams(beta=2.0, alpha=0.0, base_loss="simpo", gamma=0.5))
        np.testing.assert_allclose([score[0] for score in found.rewards], [2 * -0.8, 2 * -0.7])
        np.testing.assert_allclose(found.total, [-math.log(sigma(-0.2 - 0.5))])

    @pytest.mark.parametrize("base_loss", BASE_LOSSES)
    def test_empty_responses(self, base_loss):
        found = t_reg(*sides([([], [])]), (np.zeros(0), np.zeros(0)), TRegParams(base_loss=base_loss))
        assert found.total[0] == pytest.approx(math.log(2))
        assert [len(gradient) for gradient in found.gradients] == [0, 0]

    @pytest.mark.parametrize("params", [{"base_loss": "ipo"}, {"sequence_weighting": "none"}])
    def test_bad_parameters(self, params):
        with pytest.raises(BadConfig):
            TRegParams(**params)
