"""POAD against its direct definition, and what must hold of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_trees import NA, labelled_trees

from pipeline.credit import METHODS
from pipeline.credit.poad import VARIANTS, PoadParams, normalise_tokens, poad
from pipeline.credit.ragged import ragged
from pipeline.errors import BadConfig
from pipeline.golden.poad import answer

VALUE = st.sampled_from([-0.5, 0.0, 0.1, 0.4, 1.0])
ACTION = st.tuples(VALUE, st.booleans(), st.lists(VALUE, max_size=4))
BATCH = st.lists(st.tuples(VALUE, st.lists(ACTION, max_size=4)), max_size=4)
PARAMS = st.builds(
    PoadParams, st.sampled_from(VARIANTS), st.sampled_from([1.0, 0.95]), st.sampled_from([0.0, 0.9, 1.0])
)


def run(batch, params=None):
    """POAD of segments as a bootstrap value and actions (reward, done, values of tokens)."""
    actions = [action for _, rows in batch for action in rows]
    return poad(
        ragged(values for *_, values in actions),
        np.array([reward for reward, *_ in actions], float),
        done=np.array([done for _, done, _ in actions], bool),
        segments=np.cumsum([0, *[len(rows) for _, rows in batch]], dtype=np.int64),
        bootstrap=np.array([value for value, _ in batch], float),
        params=params or PoadParams(),
    )


def direct(segment, params):
    """The recursion from the last token of a segment to its first."""
    following, actions = segment
    inside = 1.0 if params.variant == "poad" else params.gamma
    trace, found = 0.0, []
    for reward, done, values in reversed(actions):
        target = reward + (0.0 if done else params.gamma * following)
        carried = 0.0 if done else params.gamma * params.gae_lambda * trace
        if not values:  # worth what it leads to
            following, trace = target, carried
            continue
        advantages = []
        for place in range(len(values) - 1, -1, -1):
            if place == len(values) - 1:
                trace = target - values[place] + carried
            else:
                trace = inside * values[place + 1] - values[place] + inside * params.gae_lambda * trace
            advantages.append(trace)
        found = advantages[::-1] + found
        following = values[-1 if params.variant == "archer" else 0]
    return found


@given(BATCH, PARAMS)
@settings(max_examples=120, deadline=None)
def test_is_its_definition(batch, params):
    found = run(batch, params)
    expected = np.array([value for segment in batch for value in direct(segment, params)])
    values = np.array([value for _, rows in batch for *_, tokens in rows for value in tokens])
    np.testing.assert_allclose(found.advantage, expected, atol=1e-8)
    np.testing.assert_allclose(found.returns, expected + values, atol=1e-8)
    assert np.isfinite(found.normalised).all()


@given(BATCH, st.randoms())
@settings(max_examples=30, deadline=None)
def test_segments_do_not_meet(batch, random):
    order = list(range(len(batch)))
    random.shuffle(order)
    alone = [run([segment]).advantage.tolist() for segment in batch]
    assert run([batch[place] for place in order]).advantage.tolist() == [x for place in order for x in alone[place]]


@given(BATCH)
@settings(max_examples=30, deadline=None)
def test_without_discount_it_is_the_flat_baseline(batch):
    one, other = run(batch, PoadParams("poad", gamma=1)), run(batch, PoadParams("ntpo", gamma=1))
    np.testing.assert_allclose(one.advantage, other.advantage, atol=1e-12)


def test_splitting_an_action_leaves_its_first_token():
    short = [(0.3, [(0.5, False, [0.2]), (1.0, True, [0.4])])]
    long = [(0.3, [(0.5, False, [0.2] * 5), (1.0, True, [0.4])])]
    params = PoadParams(gae_lambda=1)
    assert run(short, params).advantage[0] == pytest.approx(run(long, params).advantage[0])
    assert run(short, params).advantage[0] != pytest.approx(run(long, PoadParams("ntpo", gae_lambda=1)).advantage[0])


def test_lambda_zero_is_the_plain_backup():
    found = run([(0.7, [(0.0, False, [0.1, 0.2]), (0.5, False, [0.4, 0.6])])], PoadParams(gae_lambda=0))
    np.testing.assert_allclose(found.returns, [0.2, 0.95 * 0.4, 0.6, 0.5 + 0.95 * 0.7])


def test_one_terminal_action_returns_its_reward():
    found = run([(9.0, [(0.8, True, [0.1, 0.5, 0.2])])], PoadParams(gae_lambda=1))
    np.testing.assert_allclose(found.returns, 0.8)


def test_nothing_crosses_done():
    before = [(0.0, True, [0.1, 0.3])]
    after = [(5.0, False, [float("nan")])]
    assert run([(9.0, before + after)]).advantage[:2].tolist() == run([(np.nan, before)]).advantage.tolist()


class TestNormalised:
    def test_tokens_of_no_advantage_move_but_do_not_count(self):
        np.testing.assert_allclose(normalise_tokens(np.array([1.0, 0.0, 3.0])), [-1, -2, 1], atol=1e-6)

    def test_nothing_stays_nothing(self):
        assert normalise_tokens(np.zeros(3)).tolist() == [0, 0, 0]
        assert len(normalise_tokens(np.zeros(0))) == 0

    def test_equal_ones_are_exactly_nothing(self):
        assert normalise_tokens(np.full(7, 0.1)).tolist() == [0] * 7

    def test_rounding_is_no_advantage(self):
        assert 0.1 + 0.2 != 0.3
        assert run([(0.0, [(0.1 + 0.2, True, [0.3])])]).advantage.tolist() == [0]


def test_vector_fields_may_be_absent():
    root = {"task": "t", "id": "r", "parent": None}
    node = {"task": "t", "traj": "a", "id": "a", "parent": "r", "values": [0.5]}
    found = answer({}, {"nodes": [root, node]})
    assert set(found) == {"POAD", "NTPO", "ARCHER"}
    assert found["POAD"]["token_advantage"]["a"].tolist() == [-0.5]


def test_unknown_variant_is_named():
    with pytest.raises(BadConfig, match="gae"):
        PoadParams("gae")


class TestTrees:
    #     0      the question
    #   1   3    two episodes; 1 has two tokens, 4 two
    #   2   4    2 is paid for
    VALUES = (9, 9, 0.2, 0.4, 0.6, 0.5, 0.5, 0.5)
    TREES = labelled_trees(
        (-1, 0, 1, 0, 3),
        (NA,) * 5,
        sizes=(2, 2, 1, 1, 2),
        kind=(0, 1, 1, 1, 1),
        step_reward=(0, 0, 1, 0, 0),
        critic_values=VALUES,
    )

    @pytest.mark.parametrize(
        ("gae_lambda", "tokens"),
        [
            pytest.param(1.0, (0, 0, 0.3, 0.1, 0.4, -0.5, -0.5, -0.5), id="traces over all that follows"),
            pytest.param(0.0, (0, 0, 0.2, -0.1, 0.4, -0.25, 0, -0.5), id="BAD: the plain backup"),
        ],
    )
    def test_tokens_by_hand(self, gae_lambda, tokens):
        found = METHODS["poad"].function(self.TREES, PoadParams(gamma=0.5, gae_lambda=gae_lambda))
        np.testing.assert_allclose(found.token_advantages, tokens, atol=1e-12)
        means = [0, (tokens[2] + tokens[3]) / 2, tokens[4], tokens[5], (tokens[6] + tokens[7]) / 2]
        np.testing.assert_allclose(found.advantage, means, atol=1e-12)

    def test_a_mini_batch_is_all_there_is(self):
        params = PoadParams(normalise=True)
        assert METHODS["poad"].across_tasks(params)
        assert not METHODS["poad"].across_tasks(PoadParams())
        episodes = [
            (0.0, [(0.0, False, [0.2, 0.4]), (1.0, True, [0.6])]),
            (0.0, [(0.0, False, [0.5]), (0.0, True, [0.5] * 2)]),
        ]
        found = METHODS["poad"].function(self.TREES, params)
        np.testing.assert_allclose(found.token_advantages[2:], run(episodes, params).normalised, atol=1e-12)

    def test_an_unknown_value_spoils_what_rests_on_it(self):
        given = {**self.TREES.given, "critic_values": np.array((*self.VALUES[:4], NA, *self.VALUES[5:]))}
        found = METHODS["poad"].function(replace(self.TREES, given=given), PoadParams())
        assert np.isnan(found.token_advantages).tolist() == [False] * 2 + [True] * 3 + [False] * 3
