"""LaRe: rewards of a linear decoder, the losses it is fitted by, and what is sent back of written functions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_trees import NA
from spoken_trees import credited, spoken_trees

from pipeline.credit.lare import (
    LaReParams,
    draw_steps,
    lare_loss,
    linear_rewards,
    redistributed_returns,
    rejection,
    return_loss,
    sampled_return_loss,
    standardised_returns,
)
from pipeline.errors import BadConfig


def sampled(episodes, returns, steps, *, unbiased=False):
    return sampled_return_loss(
        np.concatenate([np.array(episode, dtype=np.float64) for episode in episodes]),
        np.array(returns, dtype=np.float64),
        offsets=np.cumsum([0, *map(len, episodes)], dtype=np.int64),
        sampled=np.array([step for some in steps for step in some], dtype=np.int64),
        sampled_offsets=np.cumsum([0, *map(len, steps)], dtype=np.int64),
        unbiased=unbiased,
    )


def test_decoder():
    found = linear_rewards(np.array([[1.0, 2], [1, 0]]), weight=np.array([0.5, 0.25]), bias=1)
    assert found.tolist() == [2, 1.5]
    assert redistributed_returns(found, np.array([0, 2, 2])).tolist() == [3.5, 0]


def test_a_factor_that_never_varies_makes_no_difference():
    latent = np.array([[7.0, 1], [7, 3]])
    one, other = (np.diff(linear_rewards(latent, weight=np.array([weight, 2.0])))[0] for weight in (0, 100))
    assert one == pytest.approx(other)


def test_return_loss():
    loss = return_loss(np.array([1.0, 0, 5]), np.array([2.0, 5, 9]), offsets=np.array([0, 2, 3, 3]))
    assert loss == pytest.approx(((0.5 - 1) ** 2 + 0) / 2)  # an episode without steps is left out
    assert np.isnan(return_loss(np.zeros(0), np.zeros(0), offsets=np.array([0])))


@given(st.lists(st.lists(st.floats(-3, 3), min_size=1, max_size=5), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_rewards_that_sum_to_the_return_lose_nothing(episodes):
    rewards, offsets = np.concatenate(episodes), np.cumsum([0, *map(len, episodes)])
    assert return_loss(rewards, redistributed_returns(rewards, offsets), offsets=offsets) == pytest.approx(0, abs=1e-12)
    everything = [list(range(len(episode))) for episode in episodes]
    returns = np.arange(len(episodes), dtype=np.float64)
    whole = return_loss(rewards, returns, offsets=offsets)
    assert sampled(episodes, returns, everything) == pytest.approx(whole)
    assert sampled(episodes, returns, everything, unbiased=True) == pytest.approx(whole)  # K = T: nothing was drawn


@pytest.mark.parametrize(
    ("steps", "loss", "correction"),
    [
        pytest.param([[0, 3]], (0.4 - 0.5) ** 2, 0.32 * (1 - 2 / 4) / 2, id="two of four"),
        pytest.param([[2]], (0.1 - 0.5) ** 2, 0, id="one has no variance"),
        pytest.param(
            [[0, 0, 3, 3, 3, 3]],
            (3.2 / 6 - 0.5) ** 2,
            np.var([0, 0, 0.8, 0.8, 0.8, 0.8], ddof=1) * -0.5 / 6,
            id="more than there are: repeats count, the correction is negative",
        ),
    ],
)
def test_sampled_return_loss(steps, loss, correction):
    episode = [[0, 0.4, 0.1, 0.8]]
    assert sampled(episode, [2], steps) == pytest.approx(loss)
    assert sampled(episode, [2], steps, unbiased=True) == pytest.approx(loss - correction)


def test_episodes_of_which_nothing_was_drawn_are_left_out():
    assert sampled([[1.0], [5.0]], [0, 0], [[0], []]) == 1


@given(st.lists(st.integers(0, 7), max_size=6), st.integers(1, 5), st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_drawing(lengths, wanted, seed):
    offsets = np.cumsum([0, *lengths])
    params = LaReParams(sampled=wanted)
    steps, starts = draw_steps(offsets, seed=seed, params=params)
    assert np.diff(starts).tolist() == [wanted if length else 0 for length in lengths]
    for place, length in enumerate(lengths):
        drawn = steps[starts[place] : starts[place + 1]].tolist()
        assert all(0 <= step < length for step in drawn)
        assert length < wanted or len(set(drawn)) == len(drawn)
    assert draw_steps(offsets, seed=seed, params=params)[0].tolist() == steps.tolist()


def test_draws_reach_every_step():
    steps, _ = draw_steps(np.arange(0, 301, 3), seed=0, params=LaReParams(sampled=1))
    assert (np.bincount(steps, minlength=3) > 20).all()
    steps, _ = draw_steps(np.array([0, 2]), seed=0, params=LaReParams(sampled=40))
    assert (np.bincount(steps, minlength=2) > 5).all()


def test_the_named_loss():
    rewards, returns, offsets = np.array([1.0, 1, 1]), np.array([0.0]), np.array([0, 3])
    for loss in ("rd", "rrd", "rrd_unbiased"):
        assert lare_loss(rewards, returns, offsets=offsets, seed=0, params=LaReParams(loss)) == pytest.approx(1)
    with pytest.raises(BadConfig, match="rudder"):
        LaReParams("rudder")
    with pytest.raises(BadConfig, match="draws 0"):
        LaReParams(sampled=0)


def test_returns_by_family():
    found = standardised_returns(np.array([1.0, 3, 9, 9]), np.array([0, 0, 1, 1]))
    assert found.tolist() == [-1, 1, 0, 0]


def test_written_functions_are_sent_back():
    good = [np.zeros((2, 1)), np.ones((2, 1))]
    assert rejection(good) is None
    assert "factor 1 has shape (2,)" in rejection([good[0], np.zeros(2)])
    assert "no factor" in rejection([])
    assert rejection("ZeroDivisionError: division by zero") == "ZeroDivisionError: division by zero"
    assert rejection("") is not None


#    0
#    1
#   2  3     3 has no reward
#      4     and neither has the rendered 4
def test_steps_of_trees():
    trees = spoken_trees([-1, 0, 1, 1, 3], [NA] * 5, rendered=[4], latent_reward=[NA, 0.25, 0.5, NA, 9])
    found = credited("lare", trees)
    np.testing.assert_allclose(found.advantage, [0, 0.25, 0.5, NA, 0])
    np.testing.assert_allclose(found.value, [0.75, 0.75, 0.75, NA, NA])


def test_a_return_is_the_mean_over_episodes():
    trees = spoken_trees([-1, 0, 1, 1], [NA] * 4, latent_reward=[NA, 1, 2, 4])
    assert credited("lare", trees).value.tolist() == [4, 4, 3, 5]
