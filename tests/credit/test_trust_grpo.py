"""Trust-GRPO: when thinking rewards are believed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_trees import NA, labelled_trees

from pipeline.credit.trust_grpo import TrustParams, parse_thinking_score, trust_grpo, trust_grpo_credit
from pipeline.errors import BadConfig


def credit(outcomes, thinking, groups=None, **params):
    groups = np.array([0] * len(outcomes) if groups is None else groups)
    return trust_grpo(np.array(outcomes, float), np.array(thinking, float), groups, TrustParams(**params))


MEMBERS = st.lists(st.tuples(st.sampled_from([0.0, 0.15, 0.3, 0.5, 1.0]), st.floats(0, 1)), min_size=1, max_size=6)


@given(MEMBERS, MEMBERS, st.sampled_from(["paper", "code"]))
@settings(max_examples=60, deadline=None)
def test_a_task_is_alone_and_has_no_order(here, there, variant):
    alone = credit(*zip(*here, strict=True), variant=variant)
    both = credit(*zip(*there, *here, strict=True), [1] * len(there) + [0] * len(here), variant=variant)
    np.testing.assert_array_equal(both.advantages[len(there) :], alone.advantages)
    turned = credit(*zip(*here[::-1], strict=True), variant=variant)
    np.testing.assert_allclose(turned.advantages[::-1], alone.advantages, atol=1e-6)
    assert np.isfinite(alone.advantages).all()
    assert (alone.trust <= 1).all()
    assert (alone.trust > 0).all() or variant == "code"


def test_better_thinking_of_wrong_answers_is_discounted():
    found = credit([1, 0], [0.2, 0.7])
    assert (found.mu_correct[0], found.mu_wrong[0]) == (0.2, 0.7)
    assert found.trust[0] == pytest.approx(np.exp(-0.5))
    assert found.rewards[1] == pytest.approx(np.exp(-0.5) * 0.3 * 0.7)


def test_annealing():
    assert credit([1, 0], [1, 0]).anneal == 1
    assert credit([1, 0], [1, 0], step=1500).rewards[0] == pytest.approx(1 + 0.3 / np.e)


def test_without_thinking_it_is_plain():
    outcomes = np.array([1, 0, 0, 1.0])
    expected = (outcomes - 0.5) / (outcomes.std(ddof=1) + 1e-6)
    np.testing.assert_allclose(credit(outcomes, [0.1, 0.9, 0.4, 0.3], alpha=0).advantages, expected)


def test_equal_thinking_keeps_the_ranking_of_outcomes():
    found = credit([0.6, 0.2, 1.0], [0.5, 0.5, 0.5])
    assert np.argsort(found.rewards).tolist() == [1, 0, 2]
    assert not credit([1, 1], [0.5, 0.5]).advantages.any()


@pytest.mark.parametrize("outcomes", [[1, 0.5], [0.4, 0]])
def test_an_empty_side_is_trusted(outcomes):
    found = credit(outcomes, [0.2, 0.9])
    assert found.trust[0] == 1
    assert 0 in (found.mu_correct[0], found.mu_wrong[0])


def test_half_right_is_right():
    assert credit([0.5, 0.49], [0.9, 0.1]).mu_correct[0] == 0.9


def test_a_group_of_one_keeps_its_reward():
    assert credit([1], [1]).advantages[0] == pytest.approx(1.3 / (1 + 1e-6))


def test_thinking_is_cut_and_unknown_is_nothing():
    assert credit([1, 0, 0], [7, -1, NA]).thinking.tolist() == [1, 0, 0]


class TestCode:
    def test_bad_answers_are_not_judged(self):
        found = credit([1, 0.1, 0.2], [0.5, 0.9, 0.8], variant="code")
        assert found.thinking.tolist() == [0.5, 0, 0.8]
        assert found.mu_wrong[0] == 0.4

    @pytest.mark.parametrize("outcomes", [[0.9, 1], [0.1, 0]])
    def test_nobody_is_judged_where_all_are_alike(self, outcomes):
        found = credit(outcomes, [0.5, 0.9], variant="code")
        assert found.rewards.tolist() == outcomes
        assert (found.trust[0], found.logged_trust[0], found.thinking.any()) == (0, 0.5, False)

    def test_what_is_logged_is_not_what_is_used(self):
        found = credit([1, 0.3], [0.2, 0.7], variant="code")
        assert found.trust[0] == pytest.approx(np.exp(-0.5))
        assert found.logged_trust[0] == pytest.approx(np.exp(-1))
        none_right = credit([0.3, 0.4], [0.2, 0.6], variant="code")
        assert none_right.trust[0] == 1
        assert none_right.logged_trust[0] == pytest.approx(np.exp(-0.8))


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("<answer>0.7</answer>", 0.7),
        ("Sound.\n<answer> 1 </answer>", 1),
        ("<answer>.5</answer>", 0.5),
        ("<answer>3.0</answer>", 1),
        ("<answer>-0.2</answer>", 0),
        ("<answer>good</answer>", 0),
        ("0.7", 0),
        ("<answer>" * 20_000, 0),
        ("", 0),
        (None, 0),
    ],
)
def test_parse_thinking_score(text, score):
    assert parse_thinking_score(text) == score


def test_credit_of_trees():
    #     0       the question
    #   1   2     two rollouts, whose second steps are 3 and 4; 5 has no verdict
    trees = labelled_trees((-1, 0, 0, 1, 2, 0), (NA, NA, NA, 1, 0, NA), step_soft=(NA, 0.4, NA, 0.8, NA, 0.5))
    mine = credit([1, 0], [0.6, NA]).advantages
    np.testing.assert_allclose(trust_grpo_credit(trees).advantage, [0, *mine, *mine, NA], atol=1e-12)


@pytest.mark.parametrize("params", [{"variant": "blog"}, {"total_steps": 0}])
def test_bad_parameters_are_named(params):
    with pytest.raises(BadConfig, match=str(next(iter(params.values())))):
        TrustParams(**params)
