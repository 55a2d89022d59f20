"""BRPO against its definition, trace by trace and budget by budget."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_trees import NA
from spoken_trees import credited, spoken_trees

from pipeline.credit.brpo import (
    BrpoParams,
    mean_scores,
    summary_advantages,
    summary_scores,
    thinking_advantages,
)
from pipeline.credit.scored import BadScore
from pipeline.errors import BadConfig, BadTable
from schemas.words import ORIGINS

TABLES = st.lists(
    st.tuples(st.integers(0, 2), st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=4, max_size=4)),
    min_size=1,
    max_size=6,
)


def direct(quality, groups, chance, discount=2.0):
    """Return, both baselines and advantage of the definition."""
    stages, found = len(chance), []
    returns = [[sum(chance[t] * q[t] for t in range(s, stages)) for s in range(stages)] for q in quality]
    for q, group, ret in zip(quality, groups, returns, strict=True):
        members = [other for other, code in zip(returns, groups, strict=True) if code == group]
        for s in range(stages):
            past = [discount**t for t in range(s)]
            v1 = sum(w * q[t] for t, w in enumerate(past)) / sum(past) * sum(chance[s:]) if s else 0.0
            v2 = np.mean([other[s] for other in members]) if len(members) > 1 else 0.0
            found.append((ret[s], v1, v2, ret[s] - (s * v1 + (stages - s) * v2) / stages))
    return np.array(found).reshape(len(quality), stages, 4)


@given(TABLES, st.sampled_from([None, (1, 1, 2, 4), (0, 0, 0, 1), (0, 3, 0, 1)]), st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_it_is_its_definition_in_any_order(table, probs, random):
    params = BrpoParams(budget_probs=probs)
    chance = np.array(probs or (1, 1, 1, 1)) / sum(probs or (1, 1, 1, 1))
    random.shuffle(table)
    groups, quality = np.array([group for group, _ in table]), np.array([scores for _, scores in table])
    found = thinking_advantages(quality, groups, params)
    np.testing.assert_allclose(np.stack(found, axis=2), direct(quality, groups, chance), atol=1e-9)


@pytest.mark.parametrize("probs", [(1, 1, 1, 1), (0.1, 0.2, 0.3, 0.4), (0, 0, 0, 1)])
@pytest.mark.parametrize("score", [0.0, 0.1, 1.0])
def test_traces_that_agree_earn_exactly_nothing(probs, score):
    found = thinking_advantages(np.full((3, 4), score), np.zeros(3, int), BrpoParams(budget_probs=probs))
    assert found.advantage.tolist() == [[0.0] * 4] * 3


def test_a_lone_trace_keeps_its_return_at_the_first_budget():
    found = thinking_advantages(np.array([[0.0, 1.0, 1.0, 0.0]]), np.array([0]))
    assert found.advantage[0, 0] == found.returns[0, 0] == 0.5


def test_one_budget_is_the_group_mean():
    params = BrpoParams(budgets=(8000,))
    found = thinking_advantages(np.array([[1.0], [0.0], [0.0], [1.0]]), np.array([0, 0, 0, 1]), params)
    np.testing.assert_allclose(found.advantage[:, 0], (2 / 3, -1 / 3, -1 / 3, 1))


def test_base_returns_the_last_score_and_does_not_mind_what_else_is_unknown():
    quality = np.array([[NA, 1.0, 0.0, 0.75], [0.0, 0.0, 1.0, 0.25]])
    found = thinking_advantages(quality, np.zeros(2, int), BrpoParams(prior="base"))
    np.testing.assert_allclose(found.returns, [[0.75] * 4, [0.25] * 4])
    np.testing.assert_allclose(found.baseline_v2, 0.5)
    assert np.isfinite(found.advantage[1]).all()


def test_v1_looks_only_back_at_its_own_trace():
    quality = np.array([[1.0, 0.0, 0.5, 0.0], [0.0, 1.0, 0.0, 1.0]])
    later = quality.copy()
    later[0, 2:], later[1] = 1.0, 0.5
    one, other = (thinking_advantages(q, np.zeros(2, int)).baseline_v1 for q in (quality, later))
    np.testing.assert_array_equal(one[0, :3], other[0, :3])
    np.testing.assert_allclose(one[0], (0, 0.75, 1 / 3 * 0.5, 3 / 7 * 0.25))


@pytest.mark.parametrize("mode", ["v1only", "v2only", "none", "notrain"])
def test_other_modes_change_the_advantage_alone(mode):
    quality, groups = np.array([[1.0, 0.0, 0.5, 0.0], [0.0, 1.0, 0.0, 1.0]]), np.zeros(2, int)
    plain = thinking_advantages(quality, groups)
    found = thinking_advantages(quality, groups, BrpoParams(variance_reduction=mode))
    for one, other in zip(plain[:3], found[:3], strict=True):
        np.testing.assert_array_equal(one, other)
    baseline = {"v1only": plain.baseline_v1, "v2only": plain.baseline_v2, "none": 0.0, "notrain": plain.returns}
    np.testing.assert_allclose(found.advantage, plain.returns - baseline[mode], atol=1e-12)


def test_mean_scores_leave_out_the_unknown():
    scores, traces, budgets = np.array([1.0, 0.0, NA, 1.0, NA]), np.array([0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 2])
    params = BrpoParams(budgets=(1, 2, 3))
    found = mean_scores(scores, traces, budgets, count=2, params=params)
    np.testing.assert_allclose(found, [[0.5, NA, NA], [NA, 1, NA]])
    with pytest.raises(BadTable, match="summary 4 is of budget 2"):
        mean_scores(scores, traces, budgets, count=2, params=BrpoParams(budgets=(1, 2)))


#   two traces; the first ends at once, and has the summaries of both budgets on one node
SUMMARIES = {
    "scores": np.array([1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0]),
    "traces": np.array([0, 0, 0, 0, 1, 1, 1, 1]),
    "budgets": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "nodes": np.array([5, 5, 5, 5, 6, 6, 7, 7]),
    "groups": np.array([0, 0]),
}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({"n_summary": 2}, (0.5, 0.5, -0.5, -0.5, 0.5, -0.5, 0, 0), id="of a node"),
        pytest.param({"n_summary": 1}, (0.25, 0.25, -0.5, -0.5, 0.25, -0.75, 0.5, 0.5), id="of a budget"),
        pytest.param({"n_summary": 2, "summary_method": "grpo"}, (0, 0, 0, -0.5, 0, 0, 0, 0), id="last alone"),
        pytest.param(
            {"n_summary": 2, "variance_reduction": "notrain"}, (0.5, 0.5, -0.5, -0.5, 0.5, -0.5, 0, 0), id="untouched"
        ),
    ],
)
def test_summaries(options, expected):
    found = summary_advantages(**SUMMARIES, params=BrpoParams(budgets=(1, 2), **options))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_summaries_of_another_task_or_without_a_score_do_not_count():
    given_ = SUMMARIES | {"groups": np.array([0, 1]), "scores": np.array([1.0, 1.0, 0.0, NA, 1.0, 0.0, 1.0, 1.0])}
    found = summary_advantages(**given_, params=BrpoParams(budgets=(1, 2), n_summary=1))
    np.testing.assert_allclose(found, (0, 0, 0, NA, 0.5, -0.5, 0, 0), atol=1e-12)


def test_a_score_needs_one_closing_marker():
    right, markers, ended = np.array([1, 1, 1, 1, 0], bool), np.array([1, 0, 2, 1, 1]), np.array([0, 0, 0, 1, 0], bool)
    assert summary_scores(right, markers, ended).tolist() == [1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("prior", "chance"), [("uniform", (1 / 2, 1 / 2)), ("linear", (1 / 4, 3 / 4)), ("base", (0, 1))]
)
def test_priors(prior, chance):
    np.testing.assert_allclose(BrpoParams(budgets=(100, 300), prior=prior).probabilities(), chance)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"variance_reduction": "v3only"}, "v3only"),
        ({"summary_method": "ppo"}, "ppo"),
        ({"prior": "bass"}, "bass"),
        ({"budgets": (2, 1)}, "rise"),
        ({"budget_probs": (1, 1)}, "weights"),
        ({"budget_probs": (0, 0, 0, 0)}, "weights"),
        ({"discount": 0}, "discount"),
    ],
)
def test_bad_parameters_are_named(options, said):
    with pytest.raises(BadConfig, match=said):
        BrpoParams(**options)


S, B, P = ORIGINS.index("sample"), ORIGINS.index("branch"), ORIGINS.index("prompt")


#              0
#       1               2            thinking up to the first budget; there trace 2 has closed it
#     3   4           5    16        3, 5 and 9: forced tokens; 16: what trace 2 says then
#    6 7  8     12 13 14 15          summaries: 14 and 15 at the second budget
#         9
#       10 11
def thought(**more):
    given = {
        "budget": [NA, 0, 0, NA, NA, NA, NA, NA, 1, *[NA] * 8],
        "origin": [P, S, S, P, S, P, B, B, S, P, B, B, B, B, B, B, S],
    } | more
    parent = [-1, 0, 0, 1, 1, 2, 3, 3, 4, 8, 9, 9, 5, 5, 5, 5, 2]
    reward = [NA] * 6 + [1, 0, NA, NA, 1, 1, 0, 1, 0, 0, 1]
    return spoken_trees(parent, reward, **given)


PAIR = {"budgets": (100, 200), "n_summary": 2}


def test_thinking_and_summaries_of_trees():
    found = credited("brpo", thought(), **PAIR)
    # scores: 1/2 and 1; 1/2 and 0. returns: 3/4 and 1/2; 1/4 and 0. baselines: 1/2; (1/4 + 1/4) / 2
    np.testing.assert_allclose(found.value, [NA, 3 / 4, 1 / 4, NA, 1 / 2, NA, NA, NA, 1 / 2, *[NA] * 8])
    thinking = [0, 1 / 4, -1 / 4, 0, 1 / 4, 0]
    summaries = [1 / 2, -1 / 2, 1 / 4, 0, 0, 0, -1 / 4, 3 / 4, -1 / 4, -1 / 4, NA]
    np.testing.assert_allclose(found.advantage, thinking + summaries)


@pytest.mark.parametrize(
    ("params", "thinking", "summaries"),
    [
        pytest.param({"variance_reduction": "notrain"}, (0, 0, 0), (1 / 2, -1 / 2, -1 / 4, 3 / 4), id="no thinking"),
        pytest.param({"summary_method": "grpo"}, (1 / 4, -1 / 4, 1 / 4), (0, 0, 0, 0), id="the last one alone"),
        pytest.param({"prior": "base"}, (1 / 2, -1 / 2, 1 / 2), (1 / 2, -1 / 2, -1 / 4, 3 / 4), id="last budget"),
    ],
)
def test_choices(params, thinking, summaries):
    found = credited("brpo", thought(), **PAIR | params).advantage
    np.testing.assert_allclose(found[[1, 2, 8]], thinking)
    np.testing.assert_allclose(found[[6, 7, 12, 13]], summaries)


def test_summaries_with_budgets_of_their_own():
    turned = [NA, 0, 0, NA, NA, NA, NA, NA, 1, NA, NA, NA, 1, 1, 0, 0, NA]
    found = credited("brpo", thought(budget=turned), **PAIR)
    np.testing.assert_allclose(found.value[[1, 2, 8]], [3 / 4, 1 / 4, 1 / 2])
    np.testing.assert_allclose(found.advantage[[1, 2, 8]], [1 / 4, -1 / 4, (1 / 2 - (1 / 4 + (1 / 2 + 1 / 4) / 2) / 2)])


def test_one_summary_at_a_budget_is_held_against_those_of_other_traces():
    #   0 - 1 - 2 | 3, each with a summary below forced tokens, the way to the first shared
    trees = spoken_trees(
        [-1, 0, 1, 1, 2, 3, 4, 5],
        [NA] * 6 + [1, 0],
        budget=[NA, NA, 0, 0, NA, NA, NA, NA],
        origin=[P, S, S, S, P, P, B, B],
    )
    found = credited("brpo", trees, budgets=(100,), n_summary=1)
    np.testing.assert_allclose(found.value, [NA, 1 / 2, 1, 0, NA, NA, NA, NA])
    np.testing.assert_allclose(found.advantage, [0, 0, 1 / 2, -1 / 2, 0, 0, 1 / 2, -1 / 2])


def test_what_nobody_judged_leaves_thinking_unknown():
    trees = thought()
    reward = trees.reward.copy()
    reward[[10, 11]] = NA
    found = credited("brpo", replace(trees, reward=reward), **PAIR)
    np.testing.assert_allclose(found.value[[1, 2, 8]], [NA, 1 / 4, NA])
    np.testing.assert_allclose(found.advantage[[1, 2, 8, 10, 12]], [NA, 0, NA, NA, -1 / 4])


def test_a_trace_that_never_closed_its_thinking_scores_0_from_its_end_on():
    short = spoken_trees([-1, 0, 1, 2, 1], [NA, NA, NA, 1, 1], budget=[NA, 0, NA, NA, 1], origin=[P, S, P, B, S])
    found = credited("brpo", short, **PAIR)
    np.testing.assert_allclose(found.value[[1, 4]], [1 / 2, 0])
    np.testing.assert_allclose(found.advantage, [0, 1 / 2, 0, 0, -1 / 4])


@pytest.mark.parametrize(
    ("at", "budget", "said"),
    [
        pytest.param(8, 2, r"scores budget: 2 is not one of \(0, 1\)", id="not among the parameters"),
        pytest.param(8, 0.5, "scores budget: 0.5 is not one of", id="no place"),
        pytest.param(8, 0, "scores budget: 0 is not above that of the stretch before", id="does not rise"),
    ],
)
def test_budgets_at_fault_are_named(at, budget, said):
    trees = thought()
    trees.given["budget"][at] = budget
    with pytest.raises(BadScore, match=said) as raised:
        credited("brpo", trees, **PAIR)
    assert raised.value.row == at
