"""Adaptive deep reasoning: rewards by mode, what long answers lose, and the loss that picks the mode."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_trees import NA
from spoken_trees import credited, spoken_trees

from pipeline.credit.adaptive_reasoning import (
    AdaptiveReasoningParams,
    adaptive_advantages,
    adaptive_reasoning,
    length_penalties,
    switch_losses,
)
from pipeline.errors import BadConfig

PARAMS = AdaptiveReasoningParams(max_len=1000)
ROWS = st.lists(
    st.tuples(st.integers(0, 2), st.booleans(), st.sampled_from([0.0, 1.0, NA]), st.integers(0, 1500)),
    min_size=1,
    max_size=12,
)


def run(rows, *, count=3, params=PARAMS):
    groups, long, correct, lengths = (np.array(column) for column in zip(*rows, strict=True))
    return adaptive_reasoning(correct.astype(float), groups, long=long, lengths=lengths, count=count, params=params)


@pytest.mark.parametrize(
    ("short", "long", "rewards"),
    [
        pytest.param((1, 0), (1, 0), (1.5, -1, 1.0, -1), id="half of the short ones are right: simple"),
        pytest.param((0, 0), (1, 1), (-1, -1, 1.5, 1.5), id="complex"),
        pytest.param((1, 0, 0), (1,), (1.0, -1, -1, 1.5), id="too few right short ones"),
        pytest.param((), (1, 0), (1.5, -1), id="no short ones: accuracy 0"),
        pytest.param((1, 1), (), (1.5, 1.5), id="no long ones"),
        pytest.param((0, 0), (0, 0), (-1,) * 4, id="unsolved"),
        pytest.param((1, NA), (NA,), (1.5, NA, NA), id="unknown takes no part"),
    ],
)
def test_mode_rewards(short, long, rewards):
    found = run([(0, False, right, 10) for right in short] + [(0, True, right, 10) for right in long], count=1)
    np.testing.assert_allclose(found.mode_reward, rewards)
    assert found.length_penalty.tolist() == [0.0] * len(rewards)


def test_accuracies():
    found = run([(0, False, 1.0, 1), (0, False, 0.0, 1), (1, True, 1.0, 1)], count=2)
    assert [column.tolist() for column in found[:3]] == [[0.5, 0], [0, 1], [True, False]]


@pytest.mark.parametrize(
    ("length", "penalty"), [(0, 0), (800, 0), (850, -0.125), (950, -0.375), (1000, -0.5), (1200, -0.5)]
)
def test_length_penalty(length, penalty):
    rows = [(0, True, 0.0, length), (0, True, 1.0, length), (0, False, 1.0, length)]
    found = run(rows, count=1)
    np.testing.assert_allclose(found.length_penalty, (penalty, penalty, 0), atol=1e-12)
    np.testing.assert_allclose(found.total, (-1 + penalty, 1 + penalty, 1.5), atol=1e-12)


def test_a_soft_start_at_the_end_is_a_step():
    found = length_penalties(np.array([999, 1000, 1001]), AdaptiveReasoningParams(max_len=1000, len_soft_start=1.0))
    assert found.tolist() == [0, 0, -0.5]


@given(ROWS, st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_prompts_and_order_do_not_matter(rows, random):
    found = run(rows)
    assert not np.isinf(found.total).any()
    order = list(range(len(rows)))
    random.shuffle(order)
    np.testing.assert_array_equal(run([rows[place] for place in order]).total, found.total[order])
    for group in {row[0] for row in rows}:
        own = [place for place, row in enumerate(rows) if row[0] == group]
        alone = run([(0, *rows[place][1:]) for place in own], count=1)
        np.testing.assert_array_equal(alone.total, found.total[own])


@given(ROWS)
@settings(max_examples=80, deadline=None)
def test_on_a_simple_prompt_right_short_ones_outrank_right_long_ones(rows):
    found = run(rows)
    for group in np.flatnonzero(found.simple):
        right = [place for place, row in enumerate(rows) if row[0] == group and row[2] == 1]
        short = [found.total[place] for place in right if not rows[place][1]]
        deep = [found.total[place] for place in right if rows[place][1]]
        assert min(short) > max(deep, default=-np.inf)


def test_an_unsolved_prompt_has_no_advantage():
    found = run([(0, False, 0.0, 10), (0, True, 0.0, 700), (1, False, 1.0, 5), (1, True, 0.0, 5)])
    advantages = adaptive_advantages(found.total, np.array([0, 0, 1, 1]))
    assert advantages[:2].tolist() == [0.0, 0.0]
    assert advantages[2] == -advantages[3] > 0


@pytest.mark.parametrize(
    ("short", "long", "simple", "loss"),
    [
        (0.2, 1.4, True, 2.2),
        (2.0, 0.5, False, 2.5),
        (3.0, 0.5, True, 0),
        (1.4, 0.4, True, 0),
        (0.4, 0.9, True, 1.5),
        (NA, 1, True, NA),
    ],
)
def test_switch_loss(short, long, simple, loss):
    found = switch_losses(np.array([short]), np.array([long]), np.array([simple]))
    np.testing.assert_allclose(found, [loss], atol=1e-12)
    if loss == 0:
        assert found[0] == 0


def test_bad_parameters_are_named():
    with pytest.raises(BadConfig, match="max_len 0"):
        AdaptiveReasoningParams(max_len=0)


#      0
#   1 2 3 5 6     short right, short wrong, long right, unknown mode, no verdict
#       4         3 is rendered
def test_trajectories_of_trees():
    trees = spoken_trees(
        [-1, 0, 0, 0, 3, 0, 0],
        [NA, 1, 0, NA, 1, 1, NA],
        rendered=[3],
        sizes=[9, 1, 1, 50, 9, 1, 1],
        long_thinking=[NA, 0, 0, NA, 1, NA, 0],
    )
    found = credited("adaptive_reasoning", trees, max_len=10, len_soft_start=0.8)
    total = np.array([1.5, -1.0, 1.0 - 0.5 * (9 - 8) / (10 - 8)])
    np.testing.assert_allclose(found.value, [total.mean(), *total[:2], NA, total[2], NA, NA])
    said = (total - total.mean()) / total.std(ddof=1)
    np.testing.assert_allclose(found.advantage, [0, *said[:2], 0, said[2], NA, NA], atol=1e-5)
