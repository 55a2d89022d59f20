"""EPO: weights of strategy turns and the losses they make."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_trees import NA
from spoken_trees import credited, spoken_trees

from pipeline.credit.epo import EpoParams, episode_losses, turn_weights, turns_that_fit
from pipeline.golden.epo import answer


def weigh(episodes, **params):
    """Episodes of (keys, score)."""
    return turn_weights(
        np.array([key for keys, _ in episodes for key in keys], dtype=bool),
        np.array([score for _, score in episodes], dtype=np.float64),
        offsets=np.cumsum([0, *(len(keys) for keys, _ in episodes)], dtype=np.int64),
        params=EpoParams(**params),
    )


@pytest.mark.parametrize(
    ("keys", "score", "process"),
    [
        pytest.param([0, 0, 0], 8, [0, 0, 0.8], id="score at the end"),
        pytest.param([0, 1, 1], 8, [0, 1, 1], id="a key turn at the end has 1, not the score"),
        pytest.param([1], -4, [1], id="alone and key"),
        pytest.param([0], -4, [-0.4], id="a negative score"),
    ],
)
def test_process_reward(keys, score, process):
    np.testing.assert_allclose(weigh([(keys, score)]).process_reward, process)


def test_first_turn_may_count_as_key():
    assert weigh([([0, 0], 0)], first_turn_is_key=True).process_reward.tolist() == [1, 0]


def test_without_key_turns_a_weight_is_the_discount():
    np.testing.assert_allclose(weigh([([0] * 5, 3)]).weight, 0.99 ** np.arange(4, -1, -1))


def test_negative_scores_keep_their_sign():
    np.testing.assert_allclose(weigh([([0, 0], -10)], gamma=0.5).weight, [-0.5, -1])


def test_nothing_stays_nothing_and_unknown_stays_in_its_episode():
    found = weigh([([0, 0], 0), ([0], float("nan")), ([0], 5)])
    np.testing.assert_array_equal(found.weight, [0, 0, np.nan, 1])


EPISODES = st.lists(
    st.tuples(st.lists(st.booleans(), max_size=6), st.sampled_from([-10.0, 0.0, 3.0, 10.0])), min_size=1, max_size=5
)


@given(EPISODES, st.randoms())
@settings(max_examples=50, deadline=None)
def test_weights_peak_at_one_and_episodes_do_not_mix(episodes, random):
    weight = weigh(episodes).weight
    pieces = np.split(weight, np.cumsum([len(keys) for keys, _ in episodes])[:-1])
    for (keys, score), piece in zip(episodes, pieces, strict=True):
        np.testing.assert_allclose(weigh([(keys, score)]).weight, piece, atol=1e-12)
        assert np.abs(piece).max(initial=0) == pytest.approx(1 if keys and (any(keys) or score) else 0)
    order = list(range(len(episodes)))
    random.shuffle(order)
    mixed = np.concatenate([pieces[i] for i in order])
    np.testing.assert_allclose(weigh([episodes[i] for i in order]).weight, mixed, atol=1e-12)


def test_scaling_every_process_reward_leaves_the_weights():
    keys, scores = [([0, 0, 0], 5.0)], [([0, 0, 0], 10.0)]
    np.testing.assert_allclose(weigh(keys).weight, weigh(scores).weight)


def losses(weights, turns, offsets, **options):
    return episode_losses(
        np.array(weights, dtype=np.float64),
        np.array([logprob for turn in turns for logprob in turn], dtype=np.float64),
        token_offsets=np.cumsum([0, *map(len, turns)], dtype=np.int64),
        offsets=np.array(offsets),
        **options,
    )


def test_losses():
    found = losses([0.5, 1, -1], [[-1, -3], [], [-2]], [0, 2, 2, 3])
    np.testing.assert_allclose(found, [(0.5 * 2 + 0) / 2, 0, -2])


def test_a_turn_counts_the_same_however_long():
    np.testing.assert_allclose(losses([1, 1], [[-0.3], [-0.3] * 50], [0, 1, 2]), [0.3, 0.3])


def test_turns_beyond_the_context_are_left_out():
    kept = turns_that_fit(np.array([3, 4, 4, 9]), offsets=np.array([0, 3, 4]), limit=8)
    assert kept.tolist() == [True, True, False, False]
    found = losses([1, 1, 1, 1], [[-1], [-2], [-9], [-9]], [0, 3, 4], kept=kept)
    np.testing.assert_allclose(found, [1.5, 0])


def test_vectors_may_hold_turns_of_others():
    nodes = [
        {"task": "t", "id": "r", "parent": None},
        {"task": "t", "traj": "x", "id": "a", "parent": "r", "turn": 0, "agent": "strategist", "logprobs": [-1]},
        {"task": "t", "traj": "x", "id": "b", "parent": "a", "turn": 1, "agent": "actor", "episode_score": 10},
        {"task": "t", "traj": "y", "id": "c", "parent": "r", "turn": 0, "agent": "actor", "episode_score": 10},
    ]
    found = answer({}, {"nodes": nodes})
    assert found["weight"] == {"a": 1}
    assert found["episode_loss"] == {"x": 1, "y": 0}
    assert found["batch_loss"] == 1


#     0
#     1
#   2   5       2 is rendered: what the other said
#   3
#   4           3 is a key turn
def test_turns_of_trees():
    trees = spoken_trees(
        [-1, 0, 1, 2, 3, 1, 0],
        [NA, NA, NA, NA, 0.5, 0, NA],
        rendered=[2],
        key_turn=[NA, 0, 1, 1, 0, NA, 1],
    )
    found = credited("epo", trees, gamma=0.5)
    np.testing.assert_allclose(found.value, [NA, 5 / 16, NA, 5 / 4, 1 / 2, 0, NA])
    np.testing.assert_allclose(found.advantage, [0, 1 / 4, 0, 1, 2 / 5, 0, NA])
    tens = credited("epo", trees, gamma=0.5, score_divisor=10.0)
    np.testing.assert_allclose(tens.value[[1, 3, 4]], [0.5125 / 2, 1.025, 0.05])
