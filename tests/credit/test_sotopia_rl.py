"""Sotopia-RL: how a dialogue's scores are handed out over utterances, and combined."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_trees import NA
from spoken_trees import credited, spoken_trees

from pipeline.credit.scored import BadScore
from pipeline.credit.sotopia_rl import ATTRIBUTIONS, Dimension, SotopiaRLParams, combine, utterance_rewards
from pipeline.errors import BadConfig
from pipeline.golden.sotopia_rl import answer


def reward(attribution, annotated, score, *, lengths=None, **params):
    """One dimension; a score for each dialogue."""
    scores = np.atleast_2d(np.array(score, dtype=np.float64))
    lengths = [len(annotated)] if lengths is None else lengths
    return utterance_rewards(
        np.array([annotated], dtype=np.float64),
        scores,
        offsets=np.cumsum([0, *lengths], dtype=np.int64),
        params=SotopiaRLParams(attribution=attribution, **params),
    )[0]


@pytest.mark.parametrize(
    ("attribution", "annotated", "score", "expected"),
    [
        pytest.param("direct", [0, 1, 3], 9, [0, 3, 9], id="direct: the most gets the whole score"),
        pytest.param("direct", [3, 1], -3, [-3, -1], id="direct: a bad score is worst for who bears it"),
        pytest.param("direct", [-1, 3], 5, [-1, 5], id="direct: failed"),
        pytest.param("direct", [NA, 3], 5, [0, 5], id="direct: left out"),
        pytest.param("sum_normalised", [1, 3], 8, [2, 6], id="sum"),
        pytest.param("sum_normalised", [0, 0], 8, [0, 0], id="sum: of nothing"),
        pytest.param("sum_normalised", [-1, 3], 8, [-4, 12], id="sum: -1 enters as it is"),
        pytest.param("sum_normalised", [-1, 1], 8, [0, 0], id="sum: which is 0"),
        pytest.param("discounting", [0, 0, 0], 10, [8.1, 9, 10], id="discounting"),
        pytest.param("all_the_same", [0, 0], 7, [7, 7], id="all the same"),
        pytest.param("key_utterance", [0, 1, 0], 10, [9, 10, 0], id="key: one"),
        pytest.param("key_utterance", [1, 1], 4, [4, 4 / 1.9], id="key: two, the largest is 1"),
        pytest.param("key_utterance", [0, 0], 4, [0, 0], id="key: none"),
        pytest.param("goal_progress", [2, 2, 7], 10, [2, 0, 5], id="progress"),
        pytest.param("only_response", [3, 1, -1], 6, [6, 2, -1], id="only response"),
    ],
)
def test_attributions(attribution, annotated, score, expected):
    np.testing.assert_allclose(reward(attribution, annotated, score), expected, atol=1e-12)


@pytest.mark.parametrize(("scale", "most"), [("default", 3), ("5_scale", 5), ("10_scale", 10)])
def test_scales(scale, most):
    assert reward("direct", [most], 7, scale=scale).tolist() == [7]


DIALOGUES = st.lists(
    st.tuples(st.lists(st.integers(-1, 3), max_size=5), st.sampled_from([-5.0, 0.0, 3.0, 10.0])), min_size=1, max_size=4
)


@given(DIALOGUES, st.sampled_from(ATTRIBUTIONS))
@settings(max_examples=50, deadline=None)
def test_dialogues_do_not_mix(dialogues, attribution):
    said = [one for annotated, _ in dialogues for one in annotated]
    lengths = [len(annotated) for annotated, _ in dialogues]
    found = reward(attribution, said, [score for _, score in dialogues], lengths=lengths)
    assert np.isfinite(found).all()
    for piece, (annotated, score) in zip(np.split(found, np.cumsum(lengths)[:-1]), dialogues, strict=True):
        np.testing.assert_allclose(piece, reward(attribution, annotated, score), atol=1e-12)
        if attribution == "sum_normalised" and sum(annotated):
            assert piece.sum() == pytest.approx(score)
        if attribution == "key_utterance" and any(annotated) and min(annotated) >= 0:
            assert np.abs(piece).max() == pytest.approx(abs(score))


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(-5, 5), st.floats(0, 10)), max_size=6))
@settings(max_examples=50, deadline=None)
def test_combined_is_a_share_where_ranges_bound_it(rows):
    found = combine(np.array(rows, dtype=np.float64).reshape(-1, 3).T)
    assert ((found >= 0) & (found <= 1 + 1e-12)).all()


def test_combined():
    params = SotopiaRLParams(dimensions=(Dimension("goal", 0, 10, 0.5), Dimension("relationship", -5, 5, 0.5)))
    np.testing.assert_allclose(combine(np.array([[10.0, -1], [5, -1]]), params), [1, 0.5 * -0.1 + 0.5 * 0.4])
    flat = SotopiaRLParams(dimensions=(Dimension("goal", 4, 4, 1),))
    assert combine(np.array([[4.0, 9]]), flat).tolist() == [0, 0]
    seen = SotopiaRLParams(dimensions=(Dimension("goal", 0, 10, 1), Dimension("flat", 0, 10, 1)), observed_ranges=True)
    assert combine(np.array([[2.0, 3, 4], [7, 7, 7]]), seen).tolist() == [0, 0.5, 1]
    with pytest.raises(ValueError, match="expected 3"):
        combine(np.zeros((2, 1)))


def test_unknown_words():
    with pytest.raises(BadConfig, match="guess"):
        SotopiaRLParams(attribution="guess")
    with pytest.raises(BadConfig, match="7_scale"):
        SotopiaRLParams(scale="7_scale")


def test_vectors():
    nodes = [
        {"task": "d", "id": "r", "parent": None},
        {"task": "d", "traj": "p0", "id": "a", "parent": "r", "turn": 0, "agent": "p0"},
        {"task": "d", "traj": "p1", "id": "b", "parent": "a", "turn": 0, "agent": "p1", "attribution": {"goal": 3}},
        {"task": "d", "traj": "p0", "id": "c", "parent": "b", "turn": 1, "agent": "p0", "attribution": {"goal": 3}},
    ]
    found = answer({"key_turns": [1, 9]}, {"nodes": nodes, "episode_scores": {"goal": 5}})
    assert found["per_dimension"] == {"goal": {"a": 0, "c": 5}}
    assert found["key_utterance_goal"] == {"a": 4.5, "c": 5}
    assert found["combined"] == {"a": 0, "c": 0.5}


#     0                   6
#     1                   7     7 was not annotated
#   2     5               8     8 has no score
#   3                           2 and 4 are the other speaker's
#   4
def dialogues(**more):
    given = {
        "attribution_goal": [NA, 3, 3, NA, NA, 1, NA, NA, 3],
        "attribution_relationship": [NA, 0, NA, -1, NA, NA, NA, NA, 3],
        "attribution_knowledge": [NA, 0, NA, 3, NA, NA, NA, NA, 3],
        "score_goal": [NA, NA, NA, NA, 8, 6, NA, NA, NA],
        "score_relationship": [NA, NA, NA, NA, 4, NA, NA, NA, 1],
        "score_knowledge": [NA, NA, NA, NA, 5, NA, NA, NA, 1],
    } | more
    parent = [-1, 0, 1, 2, 3, 1, -1, 6, 7]
    return spoken_trees(parent, [NA] * 9, rendered=[2, 4], tree=[0] * 6 + [1] * 3, **given)


def test_utterances_of_trees():
    found = credited("sotopia_rl", dialogues()).advantage
    first = (8 / 10 + (0 + 5) / 10 + 0) / 3
    third = (0 + (-1 + 5) / 10 + 5 / 10) / 3
    np.testing.assert_allclose(found, [0, first, 0, third, 0, NA, 0, NA, NA])


def test_goal_alone():
    goal = (Dimension("goal", 0, 10, 1.0),)
    found = credited("sotopia_rl", dialogues(), dimensions=goal).advantage
    np.testing.assert_allclose(found, [0, (8 / 10 + 6 / 10) / 2, 0, 0, 0, 2 / 10, 0, NA, NA])
    shared = credited("sotopia_rl", dialogues(), dimensions=goal, attribution="discounting", discount=0.5).advantage
    np.testing.assert_allclose(shared, [0, (4 / 10 + 3 / 10) / 2, 0, 8 / 10, 0, 6 / 10, 0, NA, NA])


def test_what_is_not_of_the_scale_is_named():
    wrong = dialogues(attribution_goal=[NA, 4] + [NA] * 7)
    with pytest.raises(BadScore, match="scores attribution_goal: 4 is not -1 or from 0 to 3"):
        credited("sotopia_rl", wrong)
    assert np.isnan(credited("sotopia_rl", wrong, scale="5_scale").advantage[5])
    with pytest.raises(BadConfig, match="no scores for 'secret'"):
        credited("sotopia_rl", dialogues(), dimensions=(Dimension("secret", -10, 0),))


def test_dimensions_as_json_has_them():
    assert SotopiaRLParams(dimensions=[["goal", 0, 10, 1.0]]).dimensions == (Dimension("goal", 0, 10, 1.0),)
    for wrong in ([["goal"]], [], [["goal", "0", 10]], [1]):
        with pytest.raises(BadConfig, match="dimensions"):
            SotopiaRLParams(dimensions=wrong)
