"""Implicit process rewards: leave-one-out baselines, whitening, loss and accuracy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_trees import NA, labelled_trees

from pipeline.credit import METHODS
from pipeline.credit.implicit_prm import ImplicitPrmParams, implicit_prm, pairwise_accuracy, step_rewards
from pipeline.credit.ragged import ragged, split
from pipeline.errors import BadConfig, BadTable


def credit(rows, outcomes, groups=None, **params):
    """Of rows of log-ratios."""
    model = ragged(rows)
    return implicit_prm(
        model,
        model._replace(values=np.zeros(len(model.values))),
        outcomes=np.array(outcomes, np.float64),
        groups=np.array([0] * len(rows) if groups is None else groups),
        params=ImplicitPrmParams(**params),
    )


ROWS = st.lists(
    st.tuples(st.lists(st.floats(-2, 2), max_size=5), st.sampled_from([0.0, 0.1, 1.0])), min_size=1, max_size=5
)


@given(ROWS, ROWS)
@settings(max_examples=60, deadline=None)
def test_a_task_is_alone_and_has_no_order(here, there):
    alone = credit(*zip(*here, strict=True))
    both = credit(*zip(*there, *here, strict=True), [1] * len(there) + [0] * len(here))
    count = len(alone.returns)
    np.testing.assert_array_equal(both.returns[len(both.returns) - count :], alone.returns)
    assert both.accuracy[0] == alone.accuracy[0]
    offsets = ragged(row for row, _ in here).offsets
    turned = credit(*zip(*here[::-1], strict=True))
    there_offsets = ragged(row for row, _ in here[::-1]).offsets
    for mine, other in zip(split(alone.returns, offsets), split(turned.returns, there_offsets)[::-1], strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-9)
    assert np.isfinite(both.advantages).all()


@given(ROWS)
@settings(max_examples=40, deadline=None)
def test_advantages_are_white(rows):
    found = credit(*zip(*rows, strict=True))
    if len(found.advantages) > 1 and found.returns.var() > 1e-3:
        assert found.advantages.mean() == pytest.approx(0, abs=1e-9)
        assert found.advantages.var(ddof=1) == pytest.approx(1, rel=1e-4)


def test_returns_of_two():
    found = credit([[0.4, 0.2], [-0.2]], [1, 0])
    # process 2 * q - (0.3 - 0.2), outcome 2 * 1 - 1 on the last token
    np.testing.assert_allclose(found.returns, [0.7 + 0.3 + 1, 0.3 + 1, -0.5 - 1], atol=1e-12)


def test_sources_have_their_own_discount():
    found = credit([[0.4, 0.2]], [1], gamma_process=0.0, gamma_outcome=0.5)
    np.testing.assert_allclose(found.returns, [0.4 + 0.5, 0.2 + 1], atol=1e-12)


def test_a_group_of_one_has_no_baseline_and_one_token_no_spread():
    assert credit([[0.3]], [1]).returns.tolist() == [1.3]
    assert credit([[0.3]], [1]).advantages.tolist() == [0]


def test_equal_outcomes_and_models_give_nothing():
    found = credit([[0, 0], [0], []], [0.1, 0.1, 0.1])
    assert not found.returns.any()
    assert not found.advantages.any()
    assert found.accuracy.tolist() == [0.5]


def test_batch_norm_scales_what_enters_the_advantage_alone():
    rows, outcomes = [[3.0, -1.0], [-4.0]], [1, 0]
    plain, scaled = credit(rows, outcomes), credit(rows, outcomes, normalisation="batch_norm")
    np.testing.assert_array_equal(plain.token_rewards, scaled.token_rewards)
    assert plain.loss == scaled.loss
    by = credit([[q / (4 + 1e-6) for q in row] for row in rows], outcomes)
    np.testing.assert_allclose(scaled.returns, by.returns, atol=1e-12)


def test_loss_is_the_cross_entropy_of_the_outcome():
    found = credit([[2.0, 4.0], [-1000.0]], [1, 0], beta_train=0.5)
    np.testing.assert_allclose(found.loss, np.log1p(np.exp(-3)) / 2, atol=1e-12)


@pytest.mark.parametrize(
    ("scores", "outcomes", "accuracy"),
    [
        pytest.param([2, 1], [1, 0], 1, id="right"),
        pytest.param([1, 2], [1, 0], 0, id="wrong"),
        pytest.param([1, 1], [1, 0], 0, id="equal, the better first"),
        pytest.param([1, 1], [0, 1], 1, id="equal, the better second"),
        pytest.param([3, 1, 2], [1, 0.5, 0], (0.5 + 1) / 2, id="weighted by the difference"),
        pytest.param([1, 2], [1, 1], 0.5, id="equal outcomes"),
        pytest.param([1], [1], 0.5, id="alone"),
    ],
)
def test_pairwise_accuracy(scores, outcomes, accuracy):
    found = pairwise_accuracy(np.array(scores, float), np.array(outcomes, float), np.zeros(len(scores), int))
    assert found.tolist() == [pytest.approx(accuracy)]


def test_accuracy_of_groups_that_lie_apart():
    found = pairwise_accuracy(np.array([2.0, 1, 1, 2]), np.array([1.0, 1, 0, 0]), np.array([0, 1, 0, 1]))
    assert found.tolist() == [1, 0]


def test_an_unknown_token_stays_with_its_group():
    found = credit([[None, 0.5], [0.1], [0.4], [0.2]], [1, 0, 1, 0], [0, 0, 1, 1])
    assert np.isnan(found.advantages).tolist() == [True, True, True, False, False]


def test_steps():
    assert step_rewards(np.array([1.0, 2, 3]), np.array([0, 2, 2, 3])).tolist() == [3, 0, 3]


def test_rows_that_do_not_fit_are_named():
    with pytest.raises(BadTable, match="row 0: the outcome model has 1 numbers, the reference has 2"):
        implicit_prm(ragged([[-1]]), ragged([[-1, -1]]), outcomes=np.ones(1), groups=np.zeros(1, int))


def test_an_unknown_normalisation_is_named():
    with pytest.raises(BadConfig, match="layer_norm"):
        ImplicitPrmParams(normalisation="layer_norm")


class TestTrees:
    #     0        the question
    #   1   3  5   three answers; a token of 5 was not scored
    #   2   4
    TREES = labelled_trees(
        (-1, 0, 1, 0, 3, 0),
        (NA, NA, 1, NA, 0, 0),
        sizes=(1, 2, 1, 1, 2, 2),
        kind=(0, 1, 1, 1, 1, 1),
        prm_logprobs=(NA, -0.7, -0.9, -1, -1.3, -1, -1, -1, NA),
        reference_logprobs=(NA, *[-1] * 8),
    )

    def test_returns_by_hand(self):
        # log-ratios (0.3, 0.1, 0) and (-0.3, 0, 0), their means 2/15 and -1/10: each twice, less the sum of both means
        found = METHODS["implicit_prm"].function(self.TREES, ImplicitPrmParams(whiten=False))
        means = (2 / 15 - 1 / 10) * np.array([3, 2, 1])
        expected = [*(np.array([0.8, 0.2, 0.0]) - means + 1), *(np.array([-0.6, 0.0, 0.0]) - means - 1)]
        np.testing.assert_allclose(found.token_advantages, [0, *expected, NA, NA], atol=1e-12)
        np.testing.assert_allclose(found.advantage[2:4], [expected[2], expected[3]], atol=1e-12)
        assert np.isnan(found.advantage[5])

    def test_advantages_are_those_of_the_responses(self):
        found = METHODS["implicit_prm"].function(self.TREES, ImplicitPrmParams())
        direct = credit([[0.3, 0.1, 0.0], [-0.3, 0.0, 0.0]], [1, 0])
        np.testing.assert_allclose(found.token_advantages[1:7], direct.advantages, atol=1e-12)

    def test_only_plain_returns_keep_to_their_task(self):
        across = METHODS["implicit_prm"].across_tasks
        assert across(ImplicitPrmParams())
        assert across(ImplicitPrmParams(whiten=False, normalisation="batch_norm"))
        assert not across(ImplicitPrmParams(whiten=False))
