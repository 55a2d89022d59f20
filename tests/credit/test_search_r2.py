"""Search-R2: exact match, information density, the reward they make, and what the refiner did."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_trees import NA
from spoken_trees import credited, spoken_trees

from pipeline.credit.search_r2 import SearchR2Params, acceptance, exact_match, normalise_answer, search_r2
from pipeline.errors import BadConfig
from pipeline.golden.search_r2 import answer


def credit(rows, **params):
    """Rows of (right, group, flags)."""
    flags = [flags for _, _, flags in rows]
    return search_r2(
        np.array([right for right, _, _ in rows], dtype=bool),
        np.array([group for _, group, _ in rows], dtype=np.int64),
        useful=np.array([flag for some in flags for flag in some], dtype=bool),
        offsets=np.cumsum([0, *map(len, flags)], dtype=np.int64),
        params=SearchR2Params(**params),
    )


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        pytest.param("The  Paris.", "paris", id="article and full stop"),
        pytest.param("a.n Oak", "oak", id="punctuation goes first and may make an article"),
        pytest.param("U.S.A.", "usa", id="no blank in place of punctuation"),
        pytest.param("theatre", "theatre", id="an article is a whole word"),
        pytest.param("A", "", id="nothing is left"),
        pytest.param("l’été", "l’été", id="only ASCII punctuation"),
    ],
)
def test_normalise(text, normalised):
    assert normalise_answer(text) == normalised


def test_exact_match():
    assert exact_match("paris!", ["Rome", "Paris"])
    assert not exact_match("paris france", ["Paris"])
    assert not exact_match(None, [""])
    assert exact_match("", ["The"])
    assert not exact_match("x", [])


def test_density_is_pooled_over_steps():
    found = credit([(True, 0, [1, 1, 1, 0]), (True, 0, [])])
    assert found.process.tolist() == [0.75, 0]
    assert found.reward.tolist() == [1.75, 1]


@pytest.mark.parametrize(
    ("rows", "advantage"),
    [
        pytest.param([(True, 0, [1])], [2 / (1 + 1e-6)], id="a lone trajectory keeps its reward"),
        pytest.param([(False, 0, [1]), (False, 0, [])], [0, 0], id="all wrong"),
        pytest.param([(True, 0, [0]), (True, 0, [])], [0, 0], id="equal"),
        pytest.param(
            [(True, 0, []), (False, 0, [1]), (True, 1, [])],
            [0.5 / (0.5**0.5 + 1e-6), -0.5 / (0.5**0.5 + 1e-6), 1 / (1 + 1e-6)],
            id="tasks do not mix",
        ),
        pytest.param([], [], id="none"),
    ],
)
def test_advantage(rows, advantage):
    np.testing.assert_allclose(credit(rows).advantage, advantage, atol=1e-12)


def test_population_deviation():
    np.testing.assert_allclose(credit([(True, 0, []), (False, 0, [])], ddof=0).advantage, [1, -1], atol=1e-5)
    with pytest.raises(BadConfig, match="ddof"):
        SearchR2Params(ddof=2)


ROWS = st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.lists(st.booleans(), max_size=4)), max_size=12)


@given(ROWS, st.randoms())
@settings(max_examples=50, deadline=None)
def test_rewards_are_bounded_and_order_does_not_matter(rows, random):
    found = credit(rows)
    assert ((found.reward == 0) | ((found.reward >= 1) & (found.reward <= 2))).all()
    assert (found.reward[found.outcome == 0] == 0).all()
    assert np.isfinite(found.advantage).all()
    order = list(range(len(rows)))
    random.shuffle(order)
    np.testing.assert_allclose(credit([rows[i] for i in order]).advantage, found.advantage[order], atol=1e-9)
    alone = [i for i, (_, group, _) in enumerate(rows) if group == 0]
    np.testing.assert_allclose(credit([rows[i] for i in alone]).advantage, found.advantage[alone], atol=1e-9)


def test_acceptance():
    scores = [[0.5], [0.4, 0.6, 0.9], [0.1, 0.2, 0.3], [], [float("nan"), 0.8]]
    found = acceptance(np.array([one for some in scores for one in some]), np.cumsum([0, *map(len, scores)]))
    assert found.scored.tolist() == [True, True, True, False, True]
    assert found.accepted.tolist() == [True, False, False, False, False]
    assert found.revisions.tolist() == [0, 1, 2, 0, 1]


@given(st.lists(st.lists(st.floats(0, 1), max_size=4), max_size=6))
@settings(max_examples=50, deadline=None)
def test_an_accepted_trajectory_is_not_revised(scores):
    found = acceptance(np.array([one for some in scores for one in some]), np.cumsum([0, *map(len, scores)]))
    assert (found.revisions[found.accepted] == 0).all()
    assert (found.revisions <= np.maximum(np.array([*map(len, scores)], dtype=int) - 1, 0)).all()


@pytest.mark.parametrize(
    ("last", "outcome"),
    [
        pytest.param({"answer": "x"}, 1, id="answered"),
        pytest.param({"answer": "x", "finished": False}, 0, id="cut off"),
        pytest.param({"answer": "y"}, 0, id="the last answer counts"),
        pytest.param({}, 1, id="an earlier answer is the last one"),
        pytest.param({"answer": ""}, 0, id="an empty text is an answer"),
    ],
)
def test_whose_answer_counts(last, outcome):
    nodes = [
        {"task": "q", "id": "r", "parent": None},
        {"task": "q", "traj": "t", "id": "a", "parent": "r", "turn": 0, "answer": "x"},
        {"task": "q", "traj": "t", "id": "b", "parent": "a", "turn": 1, **last},
    ]
    found = answer({}, {"nodes": nodes, "reference_answers": {"q": ["X"]}})
    assert found["outcome"] == {"t": outcome}
    assert found["accepted_without_revision"] == found["revisions_used"] == {}


#       0                7
#     1    2           8   9     8 is not quite right, 9 has no verdict
#     3    4                     3 is rendered: what 1 found
#    5 6                         5, 6 and 4 are right
def test_trees_are_their_judged_paths():
    trees = spoken_trees(
        [-1, 0, 0, 1, 2, 3, 3, -1, 7, 7],
        [NA, NA, NA, NA, 1, 1, 1, NA, 0.9, NA],
        rendered=[3],
        tree=[0] * 7 + [1] * 3,
        useful={1: "[0]", 4: "[1]", 6: "[1]", 8: "[1]"},
    )
    found = credited("search_r2", trees)
    np.testing.assert_allclose(found.value, [3 / 2, 5 / 4, 2, NA, 2, 1, 3 / 2, 0, 0, NA])
    np.testing.assert_allclose(found.advantage, [0, -1 / 2, 1, 0, 1, -1, 0, 0, 0, NA], atol=1e-5)
    weighed = credited("search_r2", trees, process_weight=3.0)
    np.testing.assert_allclose(weighed.value[[4, 5, 6]], [4, 1, 5 / 2])


def test_passages_stand_with_the_step_or_where_they_are_rendered():
    trees = spoken_trees([-1, 0, 1, 2], [NA, NA, NA, 1], rendered=[2], useful={1: "[1]", 2: "[1, 0, true]"})
    assert credited("search_r2", trees).value[3] == 7 / 4
