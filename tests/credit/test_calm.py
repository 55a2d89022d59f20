"""CALM: which achievements count, and what steps earn by them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_trees import NA
from spoken_trees import credited, spoken_trees

from pipeline.credit.calm import CalmParams, annotator_quality, calm, subgoal_codes
from pipeline.credit.scored import BadScore
from pipeline.golden.calm import answer

GOALS = ("a", "b", "c")


def credit(trajectories, rewards=None, **params):
    """Trajectories of steps of lists."""
    steps = [names for trajectory in trajectories for names in trajectory]
    codes, places = subgoal_codes(steps, GOALS)
    rewards = np.zeros(len(steps)) if rewards is None else np.array(rewards, dtype=np.float64)
    offsets = np.cumsum([0, *map(len, trajectories)], dtype=np.int64)
    return calm(rewards, offsets, codes=codes, steps=places, params=CalmParams(**params))


def direct(steps, *, once, ordered) -> tuple[list[int], int]:
    """Entry by entry: how many count at each step, and how many distinct ones did."""
    achieved, counts = [], []
    for names in steps:
        counts.append(0)
        for name in names:
            waiting = [goal for goal in GOALS if goal not in achieved]
            good = name == (waiting[0] if waiting else None) if ordered else name in (waiting if once else GOALS)
            if good:
                achieved.append(name)
                counts[-1] += 1
    return counts, len(set(achieved))


@pytest.mark.parametrize(
    ("steps", "params", "paid", "achieved"),
    [
        pytest.param([["a"], ["b"], ["c"]], {}, [1, 1, 1], 3, id="in order"),
        pytest.param([["a"], ["a"]], {}, [1, 0], 1, id="once"),
        pytest.param([["a", "a"], ["a"]], {"once": False}, [2, 1], 1, id="every time"),
        pytest.param([["b"], ["a"], ["b"]], {"ordered": True}, [0, 1, 1], 2, id="dropped and not remembered"),
        pytest.param([["a", "b", "c"]], {"ordered": True}, [3], 3, id="several in a step, in order"),
        pytest.param([["b", "a"]], {"ordered": True}, [1], 1, id="several in a step, not in order"),
        pytest.param([["a"], ["a"]], {"ordered": True, "once": False}, [1, 0], 1, id="ordered never pays again"),
        pytest.param([["dance", "A"], []], {}, [0, 0], 0, id="no subgoal"),
        pytest.param([["a"]], {"bonus": 0.0}, [0], 1, id="counted though unpaid"),
    ],
)
def test_what_counts(steps, params, paid, achieved):
    found = credit([steps], **params)
    assert found.subgoal_reward.tolist() == paid
    assert found.achieved.tolist() == [achieved]


LISTS = st.lists(st.sampled_from(["a", "b", "c", "x"]), max_size=4)


@given(st.lists(st.lists(LISTS, max_size=5), min_size=1, max_size=4), st.booleans(), st.booleans())
@settings(max_examples=50, deadline=None)
def test_is_its_definition(trajectories, once, ordered):
    found = credit(trajectories, once=once, ordered=ordered)
    expected = [direct(steps, once=once, ordered=ordered) for steps in trajectories]
    assert found.subgoal_reward.tolist() == [count for counts, _ in expected for count in counts]
    assert found.achieved.tolist() == [achieved for _, achieved in expected]
    options = [sum(count > 0 for count in counts[:place]) for counts, _ in expected for place in range(len(counts))]
    assert found.option.tolist() == options


@given(st.lists(LISTS, min_size=1, max_size=6), st.floats(0, 3))
@settings(max_examples=50, deadline=None)
def test_shaped_less_plain_return_is_the_discounted_count(steps, bonus):
    rewards = np.arange(len(steps)) - 1.0
    shaped = credit([steps], rewards, bonus=bonus, gamma=0.9)
    plain = credit([[[] for _ in steps]], rewards, gamma=0.9)
    count = credit([steps], gamma=0.9)
    np.testing.assert_allclose(shaped.shaped_return - plain.shaped_return, bonus * count.shaped_return, atol=1e-9)


def test_returns_are_discounted_and_stay_in_their_trajectory():
    found = credit([[["a"], []], [["a"]]], [0, 2, 4], gamma=0.5)
    assert found.shaped_return.tolist() == [2, 2, 5]
    assert found.option.tolist() == [0, 1, 0]


def test_annotators_may_say_anything():
    codes, steps = subgoal_codes([["b", None, 3, ["a"]], (), ["a"]], ["a", "b", "a", "c"])
    assert codes.tolist() == [1, -1, -1, -1, 0]
    assert steps.tolist() == [0, 0, 0, 0, 2]
    nodes = [
        {"task": "t", "id": "r", "parent": None},
        {"task": "t", "traj": "x", "id": "p", "parent": "r", "turn": 0, "achieved": "a"},
        {"task": "t", "traj": "x", "id": "q", "parent": "p", "turn": 1, "achieved": [{}, "a", "a"]},
        {"task": "t", "traj": "x", "id": "s", "parent": "q", "turn": 2},
    ]
    found = answer({"subgoals": ["a"]}, {"nodes": nodes})
    assert found["subgoal_reward"] == {"p": 0, "q": 1, "s": 0}
    assert found["achieved"] == {"p": [], "q": ["a"], "s": []}


def test_annotator_quality():
    told, true = np.array([1, 1, 0, 0], dtype=bool), np.array([1, 0, 1, 0], dtype=bool)
    assert annotator_quality(told, true) == (0.5, 0.5, 0.5, 0.5)
    assert annotator_quality(true, true) == (1, 1, 1, 1)
    silent = annotator_quality(np.zeros(2, dtype=bool), np.zeros(2, dtype=bool))
    assert silent.accuracy == 1
    assert np.isnan(silent[1:]).all()


#     0             5      without a list
#     1             6
#   2   3                  2 achieves key again, then door; 3 is rendered
#       4
def keys():
    subgoals = {0: '["key", "door", "key"]', 1: '["key"]', 2: '["key", "door", "gold"]', 3: '["door"]', 6: '["key"]'}
    return spoken_trees(
        [-1, 0, 1, 1, 3, -1, 5],
        [NA] * 7,
        rendered=[3],
        tree=[0] * 5 + [1] * 2,
        subgoals=subgoals,
        step_reward=[0, 0, 1, 9, -1, 0, 1],
    )


@pytest.mark.parametrize(
    ("params", "second"),
    [
        pytest.param({}, 2, id="once"),
        pytest.param({"once": False}, 3, id="every time"),
        pytest.param({"bonus": 3.0}, 4, id="pay"),
    ],
)
def test_steps_of_trees(params, second):
    found = credited("calm", keys(), gamma=0.5, **params)
    paid = params.get("bonus", 1.0)
    np.testing.assert_allclose(found.advantage, [0, paid, second, 0, -1, 0, NA])
    first = ((paid + second / 2) + (paid - 1 / 2)) / 2
    np.testing.assert_allclose(found.value, [NA, first, second, NA, -1, NA, NA])


def test_in_order():
    turned = credited("calm", keys(), ordered=True).advantage
    assert turned[[1, 2]].tolist() == [1, 2]
    trees = spoken_trees([-1, 0, 1], [NA] * 3, subgoals={0: '["b", "a"]', 1: '["a"]', 2: '["b"]'}, step_reward=[0] * 3)
    assert credited("calm", trees, ordered=True).advantage.tolist() == [0, 0, 1]


def test_lists_that_are_none_are_named():
    trees = spoken_trees([-1, 0], [NA] * 2, subgoals={0: '["a"]', 1: "[1]"}, step_reward=[0, 0])
    with pytest.raises(BadScore, match=r"scores subgoals: '\[1\]' is not a list of texts") as raised:
        credited("calm", trees)
    assert raised.value.row == 1
