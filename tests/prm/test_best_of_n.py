"""Choosing among answers, against every subset by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.metrics.best_of_n import SELECTORS, chosen_rewards

NA = float("nan")
#            a right, b and c wrong; b and c say the same
REWARDS, ANSWERS, SCORES = [1, 0, 0], [0, 1, 1], [0.5, 0.9, 0.1]


def choose(size: int, selector: str, *, rewards=REWARDS, answers=ANSWERS, scores=SCORES) -> float:
    columns = (np.array([rewards], float), np.array([answers]), np.array([scores], float))
    return float(chosen_rewards(*columns, size=size, selector=selector)[0])


@pytest.mark.parametrize(
    ("selector", "size", "reward"),
    [
        pytest.param("best", 1, 1 / 3, id="one answer: the mean"),
        pytest.param("best", 2, 1 / 3, id="ab takes b, ac takes a, bc takes b"),
        pytest.param("best", 3, 0, id="b is scored highest"),
        pytest.param("majority", 2, 1 / 3, id="ab and ac tie, bc is wrong"),
        pytest.param("majority", 3, 0, id="two say the same"),
        pytest.param("weighted", 3, 0, id="0.9 + 0.1 against 0.5"),
        pytest.param("oracle", 1, 1 / 3, id="pass@1"),
        pytest.param("oracle", 2, 2 / 3, id="pass@2"),
        pytest.param("oracle", 3, 1, id="pass@3"),
    ],
)
def test_mean_over_subsets(selector, size, reward):
    assert choose(size, selector) == pytest.approx(reward)


def test_a_score_outweighs_votes():
    assert choose(3, "weighted", scores=[0.9, 0.3, 0.3]) == 1


def test_equals_share():
    assert choose(3, "best", scores=[0.4, 0.4, 0.1]) == 0.5
    assert choose(3, "weighted", scores=[0.6, 0.3, 0.3]) == 0.5
    assert choose(3, "majority", answers=[0, 1, 2]) == pytest.approx(1 / 3)


def test_what_cannot_be_read_has_no_vote():
    assert choose(3, "majority", answers=[0, -1, -1]) == 1
    assert choose(3, "weighted", answers=[0, -1, -1]) == 1


def test_unknown():
    assert choose(3, "best", scores=[0.2, NA, 0.1]) == 1
    assert choose(3, "best", scores=[NA, NA, NA]) == pytest.approx(1 / 3)
    assert np.isnan([choose(2, selector, rewards=[1, NA, 0]) for selector in SELECTORS]).all()


def test_many_answers_are_looked_at_in_part():
    draw = np.random.default_rng(1)
    rewards = draw.integers(2, size=(50, 24)).astype(float)
    scores = draw.random((50, 24))
    found = chosen_rewards(rewards, np.zeros((50, 24), int), scores, size=12, selector="best")
    assert abs(found.mean() - rewards.mean()) < 0.1
    with pytest.raises(ValueError, match="25 of 24"):
        chosen_rewards(rewards, np.zeros((50, 24), int), scores, size=25, selector="best")
