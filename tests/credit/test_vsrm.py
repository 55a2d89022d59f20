"""VSRM: where thinking is cut, and what a cut is paid, against the walk of the definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.credit.columns import Trees
from pipeline.credit.ragged import ragged
from pipeline.credit.vsrm import (
    VsrmParams,
    completion_prefixes,
    cut_tokens,
    find_cuts,
    outcome_rewards,
    step_rewards,
    token_rewards,
    vsrm_credit,
)

NA = float("nan")
NEAR = VsrmParams(first_after=10, spacing=20)


def direct(a, gamma=0.7, lookahead=4, tol=1e-5):
    """The walk over one response."""
    m, rewards = len(a) - 1, []
    for j in range(m):
        change = a[j + 1] - a[j]
        if abs(change) >= tol:
            rewards.append(change)
            continue
        k, steps = j + 1, 0
        while steps < lookahead and k < m and abs(a[k + 1] - a[k]) < tol:
            k, steps = k + 1, steps + 1
        if steps == lookahead:
            rewards.append(0.0)
        elif k < m:
            rewards.append((a[k + 1] - a[k]) * gamma ** (k - j))
        else:
            rewards.append((a[m] - a[j]) * gamma ** (m - j - 1))
    return rewards


@given(
    st.lists(st.lists(st.sampled_from([0.2, 0.2, 0.4, 1.0]), min_size=1, max_size=10), min_size=1, max_size=4),
    st.sampled_from([0, 1, 4]),
)
@settings(max_examples=150, deadline=None)
def test_it_is_its_definition_whatever_else_is_in_the_batch(responses, lookahead):
    cuts = np.cumsum([0, *(len(a) - 1 for a in responses)])
    found = step_rewards(ragged(responses), cuts, VsrmParams(max_lookahead=lookahead))
    expected = [reward for a in responses for reward in direct(a, lookahead=lookahead)]
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize(
    ("accuracies", "rewards"),
    [
        pytest.param([0, 0.2, 0.6, 1], (0.2, 0.4, 0.4), id="rising adds up"),
        pytest.param([0.2] * 3 + [0.8], (0.6 * 0.49, 0.6 * 0.7, 0.6), id="borrowed"),
        pytest.param([0.1] * 4, (0, 0, 0), id="all equal"),
        pytest.param([0] * 5 + [1], (0.7**4, 0.7**3, 0.7**2, 0.7, 1), id="three flat ahead of a flat one"),
        pytest.param([0] * 6 + [1], (0, 0.7**4, 0.7**3, 0.7**2, 0.7, 1), id="five flat steps are too many"),
        pytest.param([0, 0, NA, 1], (NA, NA, NA), id="unknown"),
        pytest.param([0, 1, NA], (1, NA), id="unknown at the end"),
        pytest.param([1], (), id="no cut"),
    ],
)
def test_step_rewards(accuracies, rewards):
    found = step_rewards(ragged([accuracies]), np.array([0, len(accuracies) - 1]))
    np.testing.assert_allclose(found, rewards, atol=1e-9)


def test_accuracies_that_do_not_fit_pay_nothing():
    found = step_rewards(ragged([[0, 1], [0, 0.5, 1], []]), np.array([0, 2, 4, 5]))
    assert found.tolist() == [0, 0, 0.5, 0.5, 0]


def test_placing():
    placed = token_rewards(
        np.array([0.2, 0.4, 0.3, 0.5, 0.1]),
        np.array([0, 4, 5, 5]),
        positions=np.array([1, 2, 3, 9, 0]),
        offsets=np.array([0, 4, 5, 5]),
        outcomes=np.array([0.0, 1.0, 1.0]),
    )
    assert placed.tolist() == [0, 0.2, 0.4, 0, 1]  # the outcome stands alone on the last token, also as 0


def test_outcomes():
    correct, closed, boxed = (np.array(column, bool) for column in ((1, 0, 1, 1), (1, 1, 0, 1), (1, 1, 1, 0)))
    assert outcome_rewards(correct, closed=closed, boxed=boxed).tolist() == [1, 0, -10, -9.5]


@pytest.mark.parametrize(
    ("text", "cuts"),
    [
        pytest.param("<think>One two three. Wait, no</think>wait", [21], id="after the sentence"),
        pytest.param("<think>one two three four wait</think>", [26], id="at the word without one"),
        pytest.param("<think>One. Wait</think>", [], id="too early"),
        pytest.param("One two three.\nHmm, x", [15], id="no marker: the prompt had it, and nobody closed"),
        pytest.param("<think>One two three. butter</think>", [21], id="no word boundary"),
        pytest.param("<think>One two three. so it is</think>", [], id="So only with a capital"),
        pytest.param("<think>One two three. But wait. However, 20 characters on. Hold on", [21, 58], id="spacing"),
        pytest.param("<think>One two three. Wait, a b c d e f g h but", [21], id="moving back would be too near"),
        pytest.param("<think>One two three. That's correct, but", [21], id="a phrase"),
    ],
)
def test_find_cuts(text, cuts):
    assert find_cuts(text, NEAR).tolist() == cuts


@given(st.lists(st.sampled_from(["wait ", "word ", "end. ", "So ", "\n", "hold on "]), max_size=80), st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_cuts_keep_their_distance(words, spacing):
    text = "<think>" + "".join(words)
    cuts = find_cuts(text, VsrmParams(first_after=10, spacing=spacing))
    assert (np.diff(cuts) >= spacing).all()
    for cut in cuts:
        assert text[cut - 1] in ".!?\n" or text[cut:].lower().startswith(("wait", "so", "hold on"))


def test_distances_are_counted_in_characters():
    text = "<think>" + "x" * 999 + "wait" + "y" * 396 + "wait" + "z" * 394 + ". but"
    assert find_cuts(text).tolist() == [1406]
    assert find_cuts("<think>" + "x" * 1000 + "wait" + "y" * 395 + "wait" + "z" * 400 + "But").tolist() == [1007, 1810]


def test_prefixes_and_tokens():
    text = "<think>ab. wait</think>c"
    cuts = find_cuts(text, VsrmParams(first_after=0, spacing=0))
    assert completion_prefixes(text, cuts) == ["<think>ab.</think>", "<think>ab. wait</think>"]
    assert cut_tokens(np.array([0, 4, 5]), np.array([0, 2, 4, 5])).tolist() == [0, 2, 3]


#     0      the question
#     1      a first step that two trajectories share
#    2 4     second steps
#    3       a last step that was labelled; the other has its verdict alone
def test_stored_trees():
    trees = Trees(
        parent=np.array([-1, 0, 1, 2, 1, 0], np.int32),
        depth=np.array([0, 1, 2, 3, 2, 1], np.int32),
        tree=np.zeros(6, np.int32),
        reward=np.array([NA, NA, NA, 1, 0, NA]),
        tokens=np.arange(6, dtype=np.int32),
        token_offsets=np.arange(7),
        given={"step_soft": np.array([NA, 0.4, 0.4, 0.8, NA, 0.5])},
    )
    found = vsrm_credit(trees)
    np.testing.assert_allclose(found.advantage, (0, 0, 0.4 * 0.7, 0.4, -0.4, NA), atol=1e-12)
    np.testing.assert_allclose(found.value, (NA, 0.4, 0.4, 0.8, 0, 0.5))
