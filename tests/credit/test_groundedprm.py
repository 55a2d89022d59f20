"""GroundedPRM: rewards of rollouts, what climbs the tree, and what consistent paths become."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_trees import NA
from spoken_trees import credited, spoken_trees

from pipeline.credit.groundedprm import (
    GroundedprmParams,
    assistant_turns,
    backpropagate,
    extracted_paths,
    find_markers,
    is_terminal,
    judge_texts,
    label_paths,
    outcomes,
    parse_labels,
    rollout_rewards,
    select_child,
    step_verdicts,
    uct_scores,
)
from pipeline.errors import BadConfig


def direct(verdicts, outcome):
    n = max(len(verdicts) - 1, 0)
    if n == 0:
        return outcome
    return sum(verdicts[i] * (n - i) / n for i in range(n)) / n + outcome / n


@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from([1.0, -1.0, 0.0]), max_size=7), st.sampled_from([1.0, -1.0])),
        min_size=1,
        max_size=5,
    )
)
@settings(max_examples=80, deadline=None)
def test_rewards_are_their_definition(rollouts):
    flat = np.array([verdict for verdicts, _ in rollouts for verdict in verdicts], float)
    offsets = np.cumsum([0, *(len(verdicts) for verdicts, _ in rollouts)])
    found = rollout_rewards(flat, offsets, np.array([outcome for _, outcome in rollouts]))
    np.testing.assert_allclose(found, [direct(*rollout) for rollout in rollouts], atol=1e-12)


def test_rewards():
    verdicts, offsets = np.array([1, 1, 1, 1, -1, 1, 1, -1, NA, 1]), np.array([0, 3, 7, 7, 8, 10])
    found = rollout_rewards(verdicts, offsets, np.array([1, 1, -1, 1, 1]))
    np.testing.assert_allclose(found, (1.25, 5 / 9, -1, 1, 1))
    assert outcomes(np.array([True, False])).tolist() == [1, -1]


#   0 - 1 - 2    a chain, and a second tree
#   3 - 4
def test_rewards_climb():
    found = backpropagate(
        np.array([-1, 0, 1, -1, 3]),
        value=np.array([0.5, 0, 0, 0, 0]),
        visits=np.array([2, 0, 0, 0, 0]),
        expanded=np.array([2, 2, 4, 3]),
        rewards=np.array([1.0, -0.5, 2.0, 1.0]),
    )
    np.testing.assert_allclose(found.value, (0.5 + 0.81 * 0.5, 0.45, 0.5, 2.8, 2))
    assert found.visits.tolist() == [4, 2, 0, 1, 0]


def test_uct_and_selection():
    value, visits = np.array([0.5, -0.2, 0.5]), np.array([3, 0, 3])
    scores = uct_scores(value, visits, above=6)
    np.testing.assert_allclose(scores, value + 1.414 * np.sqrt(np.log(7) / (visits + 1)))
    np.testing.assert_allclose(uct_scores(value, visits, above=6, negative=True), scores - 2 * value)
    assert select_child(scores, seed=0) == 1
    assert select_child(np.array([0.3, 0.1 + 0.2]), seed=0) == 0
    params = GroundedprmParams(selection="random")
    assert {select_child(scores, seed=seed, params=params) for seed in range(30)} == {0, 1, 2}
    assert select_child(scores, seed=7, params=params) == select_child(scores, seed=7, params=params)


@pytest.mark.parametrize(
    ("text", "marker"),
    [
        ("[True]ok", 1),
        ("  [[true]] ok", 1),
        ("\n['TRUE']", 1),
        ('[["False"]]x', -1),
        ("[false]", -1),
        ("True ok", 0),
        ("so [True]", 0),
        ("[[True]", 0),
        ("['True\"]", 0),
        ("[Truely]", 0),
        ("", 0),
    ],
)
def test_markers(text, marker):
    assert find_markers(pl.Series([text, "[True]"])).tolist() == [marker, 1]
    assert step_verdicts(pl.Series([text])).tolist() == [float(marker)]


def test_judge_texts():
    texts = pl.Series(
        ["[True]The algebra holds.", "[[False]]  wrong... ", " ['true'] Is it? [False]", "no marker", "[True]"]
    )
    assert judge_texts(texts).to_list() == [
        "The algebra holds. The conclusion is[Right]",
        "wrong. The conclusion is[Wrong]",
        "Is it? [False]. The conclusion is[Right]",
        None,
        ". The conclusion is[Right]",
    ]


T, F, N = 1, -1, 0


@pytest.mark.parametrize(
    ("steps", "positive", "strict", "labels"),
    [
        pytest.param([(0.9, T), (1, T)], True, True, [1, 1], id="right throughout"),
        pytest.param([(0.9, T), (-0.4, F), (-1, F), (0.5, T), (-1, F)], False, True, [1, -1, -1], id="cut"),
        pytest.param([(0.9, T), (-0.4, F), (0.5, T)], True, True, [1, -1, 1], id="a right path is not cut"),
        pytest.param([(-1, F), (-1, F)], False, True, [-1, -1], id="wrong from the start"),
        pytest.param([(0.9, T), (0.4, F)], True, False, None, id="right but called wrong"),
        pytest.param([(0.9, T), (0.4, N)], True, False, None, id="right without a marker"),
        pytest.param([(-0.9, N)], False, False, None, id="wrong without a marker"),
        pytest.param([(0.9, T), (0, T)], True, False, None, id="value 0"),
        pytest.param([(0.9, T), (NA, T)], True, False, None, id="no value"),
        pytest.param([(0.9, T), (-0.4, T)], False, True, None, id="wrong but called right: strict"),
        pytest.param([(0.9, T), (-0.4, T)], False, False, [1, -1], id="wrong but called right: as the code"),
        pytest.param([(-0.5, F), (0.5, T), (0, T)], False, True, None, id="dropped for what would be cut off"),
        pytest.param([], True, True, [], id="no steps"),
    ],
)
def test_paths(steps, positive, strict, labels):
    before, after = [(0.5, T), (-0.5, F)], [(-0.5, F), (0.5, T)]
    values, markers = np.array([*before, *steps, *after], float).T
    end = 2 + len(steps)
    found = label_paths(
        values,
        markers.astype(int),
        np.array([0, 2, end, end + 2]),
        positive=np.array([False, positive, False]),
        params=GroundedprmParams(strict=strict),
    )
    assert found.kept.tolist() == [True, labels is not None, True]
    assert found.labels[found.used].tolist() == [1, -1, *(labels or []), -1]


def test_incomplete_paths_are_dropped():
    values, markers, offsets = np.array([1.0, 1.0]), np.array([T, T]), np.array([0, 1, 2])
    found = label_paths(values, markers, offsets, positive=np.ones(2, bool), complete=np.array([False, True]))
    assert found.used.tolist() == [False, True]


@given(
    st.lists(st.tuples(st.sampled_from([-1.0, -0.5, 0.0, 0.5]), st.sampled_from([T, F, N])), max_size=8), st.booleans()
)
@settings(max_examples=150, deadline=None)
def test_no_path_mixes_a_right_label_with_a_false_verdict(steps, positive):
    values, markers = np.array(steps, float).reshape(-1, 2).T
    found = label_paths(values, markers, np.array([0, len(steps)]), positive=np.array([positive]))
    used = found.labels[found.used]
    assert (markers[found.used] == used).all()
    if not positive:
        assert (np.diff(used) <= 0).all()  # at most a run of right steps, then one of wrong ones
    if found.kept[0] and positive:
        assert found.used.all()


def test_turns_parse_back_to_their_labels():
    verify, judge = pl.Series(["1+1=2", "x \\boxed{+}"]), pl.Series(["ok", "<output>"])
    labels = np.array([1, -1])
    turns = assistant_turns(verify, judge, labels)
    assert parse_labels(turns).tolist() == [1.0, -1.0]
    assert turns[0] == "<verify>1+1=2</verify><judge>ok</judge><output>\\boxed{+}</output>"
    np.testing.assert_array_equal(parse_labels(pl.Series(["\\boxed{+}", "<output>+</output>"])), (NA, NA))


def test_terminal_steps_and_extracted_paths():
    found = is_terminal(
        pl.Series(["a <end>", "b", "c", "d", "e"]),
        pl.Series([None, "4", "3", None, "5"], dtype=pl.String),
        reference=pl.Series(["4", "4", "4", None, "4"], dtype=pl.String),
        above=pl.Series([None, None, "3", None, "3"], dtype=pl.String),
    )
    assert found.tolist() == [True, True, True, False, False]
    used = extracted_paths(
        np.array([2, 4, 3, 2, 9]), np.array([True, True, False, False, False]), np.array([0, 0, 0, 0, 1])
    )
    assert used.tolist() == [True, True, True, False, False]


def test_bad_parameters_are_named():
    with pytest.raises(BadConfig, match="greedy"):
        GroundedprmParams(selection="greedy")


#     0
#     1            expanded; 2, 4 and 6 are simulated
#   2   3          3 is expanded too, and 5 is simulated
#   4   5          5 is wrong
#   6              6 is right, and was not judged
def searched(hard):
    return spoken_trees([-1, 0, 1, 1, 2, 3, 4], [NA, NA, NA, NA, NA, 0, 1], step_hard=hard)


def test_steps_of_trees():
    found = credited("groundedprm", searched([NA, 1, 1, 0, 1, 0, NA]))
    first, second = (1 * 2 + 1 * 1) / 4 + 1 / 2, -1
    value = [(0.9 * first + 0.81 * second) / 2, (first + 0.9 * second) / 2, NA, second, NA, NA, NA]
    np.testing.assert_allclose(found.value, value)
    np.testing.assert_array_equal(found.advantage, [0, 1, 1, -1, 1, -1, 1])
    assert found.mask.tolist() == [False] + [True] * 6


@pytest.mark.parametrize(
    ("hard", "strict", "labels"),
    [
        pytest.param((1, 1, 1, 1, 0, NA), True, (1, 1, NA, 1, NA, 1), id="called true and of negative value"),
        pytest.param((1, 1, 1, 1, 0, NA), False, (1, 1, -1, 1, -1, 1), id="the code keeps it"),
        pytest.param((1, 1, 0, NA, 0, NA), True, (1, NA, -1, NA, -1, NA), id="a step without a verdict"),
        pytest.param((1, 1, 0, 1, 0, 0), True, (1, NA, -1, NA, -1, NA), id="the last step was called false"),
        pytest.param((1, NA, 0, 1, 0, NA), True, (NA,) * 6, id="what came up to 1 is below 0"),
        pytest.param((NA,) * 6, True, (NA,) * 6, id="nothing was judged"),
    ],
)
def test_paths_that_contradict_themselves_are_dropped(hard, strict, labels):
    found = credited("groundedprm", searched([NA, *hard]), strict=strict)
    np.testing.assert_array_equal(found.advantage, [0, *labels])


def test_a_wrong_path_is_cut_where_it_turns_right_again():
    trees = spoken_trees([-1, 0, 1, 2, 3], [NA, NA, NA, NA, 0], step_hard=[NA, 0, 0, 1, 0])
    found = credited("groundedprm", trees)
    # the only node that was expanded is 1: N = 2, u = (-1 * 2 + 1 * 1) / 4 - 1 / 2
    np.testing.assert_allclose(found.value, [-0.75 * 0.9, -0.75, NA, NA, NA])
    np.testing.assert_array_equal(found.advantage, [0, -1, -1, NA, NA])
    assert found.mask.tolist() == [False, True, True, False, False]
