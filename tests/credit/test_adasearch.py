"""AdaSearch: labels from closed-book samples, and how well decisions meet them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_trees import NA
from spoken_trees import credited, spoken_trees

from pipeline.credit.adasearch import AdaSearchParams, adasearch, label_questions
from pipeline.credit.scored import BadScore
from pipeline.errors import BadConfig
from pipeline.golden.adasearch import answer

MEMORY, SEARCH, UNPARSED = 0, 1, -1


def labels(samples, count, **params):
    """Samples of (question, reward)."""
    return label_questions(
        np.array([reward for _, reward in samples], dtype=np.float64),
        np.array([question for question, _ in samples], dtype=np.int64),
        count=count,
        params=AdaSearchParams(**params),
    )


def aware(runs, label, **params):
    """Runs of (question, decision)."""
    return adasearch(
        np.array([decision for _, decision in runs], dtype=np.int64),
        np.array([question for question, _ in runs], dtype=np.int64),
        np.array(label, dtype=np.int64),
        AdaSearchParams(**params),
    )


def test_labels():
    found = labels([(0, 1), (1, 1), (1, 0), (2, 0)], 4, solvable_threshold=0.5)
    np.testing.assert_array_equal(found.accuracy, [1, 0.5, 0, np.nan])
    assert found.label.tolist() == [MEMORY, MEMORY, SEARCH, UNPARSED]


def test_a_mean_short_of_the_threshold_by_rounding_reaches_it():
    assert sum([0.1] * 10) / 10 < 0.1
    assert labels([(0, 0.1)] * 10, 1, solvable_threshold=0.1).label.tolist() == [MEMORY]


@pytest.mark.parametrize(
    ("runs", "label", "counts", "precision", "recall", "f1", "searched"),
    [
        pytest.param([(0, SEARCH), (1, SEARCH)], [MEMORY, SEARCH], (0, 0, 1, 1), 0, 0, 0, 1, id="always searches"),
        pytest.param([(0, MEMORY), (1, MEMORY)], [MEMORY, SEARCH], (1, 1, 0, 0), 0.5, 1, 2 / 3, 0, id="never"),
        pytest.param([(0, MEMORY), (1, SEARCH)], [MEMORY, SEARCH], (1, 0, 0, 1), 1, 1, 1, 0.5, id="perfect"),
        pytest.param([(0, UNPARSED), (1, UNPARSED)], [MEMORY, SEARCH], (0, 0, 1, 1), 0, 0, 0, 0, id="unreadable"),
        pytest.param([(0, MEMORY), (0, SEARCH)], [MEMORY], (1, 0, 1, 0), 1, 0.5, 2 / 3, 0.5, id="every run counts"),
        pytest.param([(0, SEARCH)], [UNPARSED], (0, 0, 0, 0), 0, 0, 0, 1, id="no label: not counted"),
        pytest.param([], [MEMORY], (0, 0, 0, 0), 0, 0, 0, 0, id="no run"),
    ],
)
def test_awareness(runs, label, counts, precision, recall, f1, searched):
    found = aware(runs, label)
    assert (found.true_positive, found.false_positive, found.false_negative, found.true_negative) == counts
    np.testing.assert_allclose(
        (found.precision, found.recall, found.f1, found.search_rate), (precision, recall, f1, searched)
    )


def test_rewards():
    found = aware([(0, MEMORY), (0, SEARCH), (1, UNPARSED), (2, SEARCH)], [MEMORY, SEARCH, UNPARSED, SEARCH])
    np.testing.assert_array_equal(found.reward, [1, 0, 0, np.nan])
    np.testing.assert_array_equal(found.decision_reward, [0.5, 0, np.nan, np.nan])


RUNS = st.lists(st.tuples(st.integers(0, 4), st.sampled_from([MEMORY, SEARCH])), min_size=1, max_size=12)
LABELS = st.lists(st.sampled_from([MEMORY, SEARCH]), min_size=5, max_size=5)


@given(RUNS, LABELS)
@settings(max_examples=50, deadline=None)
def test_rewards_average_to_accuracy(runs, label):
    found = aware(runs, label)
    assert found.reward.mean() == pytest.approx((found.true_positive + found.true_negative) / len(runs))


@given(RUNS, LABELS, st.randoms())
@settings(max_examples=50, deadline=None)
def test_true_negatives_and_order_do_not_matter_to_f1(runs, label, random):
    found = aware(runs, label)
    mixed = random.sample(runs, len(runs))
    assert aware(mixed + [(5, SEARCH)] * 3, [*label, SEARCH]).f1 == pytest.approx(found.f1)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 0.3, 1.0])), max_size=10),
    st.floats(0, 1),
    st.floats(0, 1),
)
@settings(max_examples=50, deadline=None)
def test_a_higher_threshold_only_takes_labels_away(samples, one, other):
    low, high = (labels(samples, 4, solvable_threshold=threshold).label for threshold in sorted((one, other)))
    assert (high[low == SEARCH] == SEARCH).all()


def test_the_other_class():
    found = aware([(0, SEARCH), (1, SEARCH)], [MEMORY, SEARCH], positive_class="search")
    assert (found.precision, found.recall) == (0.5, 1)
    with pytest.raises(BadConfig, match="always"):
        AdaSearchParams(positive_class="always")


def run(name, **fields):
    return {"task": "q", "traj": name, "id": name, "parent": "r", "turn": 0, "mode": "adaptive", **fields}


@pytest.mark.parametrize(
    ("fields", "counts"),
    [
        pytest.param({}, (1, 0), id="did not search"),
        pytest.param({"tool_calls": [{"name": "search"}]}, (0, 1), id="searched"),
        pytest.param({"tool_calls": [{"name": "python"}]}, (1, 0), id="used another tool"),
        pytest.param({"decision": "no_search", "tool_calls": [{"name": "search"}]}, (1, 0), id="what it says counts"),
        pytest.param({"decision": "perhaps"}, (0, 1), id="unreadable"),
    ],
)
def test_decisions_of_vectors(fields, counts):
    nodes = [{"task": "q", "id": "r", "parent": None}, run("s", mode="parametric", reward=1), run("e", **fields)]
    found = answer({}, {"nodes": nodes})
    assert (found["counts"]["TP"], found["counts"]["FN"]) == counts


def test_a_question_without_samples_is_left_out():
    found = answer({}, {"nodes": [{"task": "q", "id": "r", "parent": None}, run("e", decision="search")]})
    assert (found["label"], found["decision_reward"], found["search_rate"]) == ({}, {}, 1)


@pytest.mark.parametrize(
    ("known", "right"),
    [
        pytest.param(0.75, (1, 0), id="mostly known from memory"),
        pytest.param(0.25, (0, 1), id="to be searched"),
        pytest.param(NA, (NA, NA), id="nobody looked"),
    ],
)
def test_closed_book_runs_of_another_round_stand_on_the_root(known, right):
    trees = spoken_trees([-1, 0, 0], [NA, 0, 1], closed_book=[known, NA, NA], searched=[NA, 0, 1])
    np.testing.assert_allclose(credited("adasearch", trees, solvable_threshold=0.5).value[1:], right)


@pytest.mark.parametrize("closed_book", [[1.5, NA], [NA, 0.5]])
def test_what_closed_book_cannot_be(closed_book):
    trees = spoken_trees([-1, 0], [NA, 1], closed_book=closed_book, searched=[NA, 0])
    with pytest.raises(BadScore, match="closed_book"):
        credited("adasearch", trees)


#             0                   8
#    1 2    3 4 5 6             9   10     1, 2 and 9 are closed-book; 9 has no verdict
#                 7
@pytest.mark.parametrize(
    ("threshold", "reward"),
    [
        pytest.param(1.0, (1, 0, 0), id="to be searched"),
        pytest.param(0.5, (0, 1, 0), id="known from memory"),
    ],
)
def test_a_tree_is_a_question(threshold, reward):
    trees = spoken_trees(
        [-1, 0, 0, 0, 0, 0, 0, 6, -1, 8, 8],
        [NA, 1, 0, NA, NA, NA, NA, 1, NA, NA, 1],
        tree=[0] * 8 + [1] * 3,
        closed_book=[NA, 1, 1, 0, NA, 0, 0, 0, NA, 1, NA],
        searched=[NA, NA, 1, 1, 0, NA, 0, -1, NA, NA, 1],
    )
    found = credited("adasearch", trees, solvable_threshold=threshold)
    one, other, unread = reward
    np.testing.assert_allclose(found.value, [1 / 3, NA, NA, one, other, NA, unread, unread, NA, NA, NA])
    scale = np.sqrt(3)  # one right of three: deviation 1 / sqrt(3)
    said = [(share - 1 / 3) * scale for share in reward]
    expected = [0, NA, NA, said[0], said[1], NA, said[2], said[2], 0, NA, NA]
    np.testing.assert_allclose(found.advantage, expected, atol=1e-5)
