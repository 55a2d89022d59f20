"""MatchTIR against its direct definition; the ways of matching against trying everything."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from labelled_trees import NA
from spoken_trees import credited, spoken_trees

from pipeline.credit.matching import greedy, optimal, transport
from pipeline.credit.matchtir import MatchtirParams, answer_f1, turn_advantages
from pipeline.credit.scored import BadScore
from pipeline.credit.tool_calls import Call, call_columns, canonical, read_calls, similarity, take
from pipeline.errors import BadConfig
from pipeline.golden.matchtir import answer

SCORE = st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 2 / 3, (1 + 1 / 3) / 2, 1.0])
TABLE = st.integers(1, 4).flatmap(
    lambda n: st.lists(st.lists(SCORE, min_size=n, max_size=n), min_size=1, max_size=4).map(np.array)
)
VALUE = st.sampled_from([1, 1.0, True, "1", None, [1, 2], [2, 1], {"x": 1, "y": [True]}, {"y": [True], "x": 1.0}])
ARGUMENTS = st.one_of(st.dictionaries(st.sampled_from("abc"), VALUE, max_size=3), st.sampled_from([None, "a", [1]]))
CALL = st.builds(Call, st.sampled_from(["find", "FIND", "open", None]), ARGUMENTS)


def every_assignment(m, n):
    """All ways to give each of m rows one of n columns or none."""
    yield from permutations([*range(n), *[-1] * m], m)


@given(TABLE)
@example(np.array([[0.25, 0.0, 0.5], [0.25, 0.0, 0.5], [0.0, 0.0, 0.5]]))
@settings(max_examples=60, deadline=None)
def test_optimal_breaks_ties_by_the_earlier_call_then_the_lower_reference(table):
    m, n = table.shape
    exact = np.round(table, 12)
    best = max(
        set(every_assignment(m, n)),
        key=lambda chosen: (
            round(sum(exact[row, column] for row, column in enumerate(chosen) if column >= 0), 9),
            [exact[row, column] if column >= 0 else 0.0 for row, column in enumerate(chosen)],
            [-column if column >= 0 and exact[row, column] > 0 else -n for row, column in enumerate(chosen)],
        ),
    )
    expected = [column if column >= 0 and exact[row, column] > 0 else -1 for row, column in enumerate(best)]
    assert optimal(table).tolist() == expected


@given(TABLE)
@settings(max_examples=60, deadline=None)
def test_greedy_takes_the_best_free_pair(table):
    m, n = table.shape
    exact, expected = np.round(table, 12), [-1] * m
    while True:
        free = [
            (row, column) for row in range(m) for column in range(n) if expected[row] < 0 and column not in expected
        ]
        free = [pair for pair in free if exact[pair] > 0]
        if not free:
            break
        row, column = max(free, key=lambda pair: (exact[pair], -pair[0], -pair[1]))
        expected[row] = column
    assert greedy(table).tolist() == expected

    def total(matched):
        return sum(table[row, column] for row, column in enumerate(matched) if column >= 0)

    assert total(optimal(table)) >= total(expected) - 1e-12


@given(TABLE, st.sampled_from([0.1, 1.0]))
@settings(max_examples=20, deadline=None)
def test_transport_scales_the_kernel(table, regularisation):
    m, n = table.shape
    kernel, row, column = np.exp(table / regularisation), np.ones(m) / m, np.ones(n) / n
    for _ in range(1000):
        column = 1 / n / (kernel.T @ row)
        row = 1 / m / (kernel @ column)
    plan = transport(table[None], regularisation=regularisation)[0]
    np.testing.assert_allclose(plan, row[:, None] * kernel * column, atol=1e-7)
    np.testing.assert_allclose(plan.sum(axis=1), 1 / m, atol=1e-12)
    together = transport(np.stack([np.zeros_like(table), table]), regularisation=regularisation)
    assert together[1].tolist() == plan.tolist()


def equal(one, other):
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def direct_similarity(call, reference):
    if call.name is None or reference.name is None or call.name.lower() != reference.name.lower():
        return 0.0
    given, wanted = ({} if not isinstance(some.arguments, dict) else some.arguments for some in (call, reference))
    union = len(given.keys() | wanted.keys())
    names = len(given.keys() & wanted.keys()) / union if union else 1.0
    values = sum(key in given and equal(given[key], value) for key, value in wanted.items())
    return (1 + names + values) / (2 + len(wanted))


@given(st.lists(CALL, max_size=5), st.lists(CALL, max_size=5))
@settings(max_examples=60, deadline=None)
def test_similarity_is_its_definition(calls, references):
    one, other = call_columns(calls, references)
    rows, columns = (axis.ravel() for axis in np.indices((len(calls), len(references))))
    found = similarity(one, rows, other, columns)
    expected = [direct_similarity(calls[row], references[column]) for row, column in zip(rows, columns, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_values_are_equal_as_json_is():
    assert canonical(1) == canonical(1.0) != canonical(True)
    assert canonical({"a": [1, {}]}) == canonical({"a": [1.0, {}]}) != canonical({"a": [{}, 1]})
    assert canonical(float("nan")) != canonical(float("nan"))
    assert canonical([]) != canonical({})


@pytest.mark.parametrize(
    ("said", "wanted", "f1"),
    [
        ("Sunny, 20-degrees!", "sunny 20 degrees", 1.0),
        ("a a a b", "a c", 0.5),
        ("", "a", 0.0),
        ("?!", "?!", 0.0),
        ("a", None, 0.0),
        (None, "a", np.nan),
        ("naïve “Ärger”", "NAÏVE “ärger”", 1.0),
    ],
)
def test_answers_share_words(said, wanted, f1):
    found = answer_f1(pl.Series([said], dtype=pl.String), pl.Series([wanted], dtype=pl.String))
    np.testing.assert_allclose(found, [f1])


# --- whole trajectories


REFERENCES = [{"name": "find", "parameters": {"a": 1}}, {"name": "open", "parameters": {}}]


def case(*trajectories, references=REFERENCES, **params):
    """Vectors of trajectories in task `t`, turns being lists of calls (name, arguments) or answers."""
    nodes = [{"task": "t", "id": "t.root", "parent": None}]
    for number, turns in enumerate(trajectories):
        for place, turn in enumerate(turns):
            node = {"task": "t", "traj": f"{number}", "id": f"{number}.{place}", "parent": "t.root", "turn": place}
            if isinstance(turn, str):
                node["answer"] = turn
            elif isinstance(turn, dict):
                node |= turn
            else:
                node["tool_calls"] = [{"name": name, "arguments": arguments} for name, arguments in turn]
            nodes.append(node)
    given = {"references": {"t": {"reference_tool_calls": references, "reference_answer": "x y"}}, "nodes": nodes}
    return answer(params, given)


FIND, OPEN = ("find", {"a": 1}), ("Open", {})


class TestWorksWhen:
    def test_a_perfect_trace_earns_one(self):
        found = case([[FIND], [OPEN], "x y"])
        assert list(found["optimal"]["turn_reward"].values()) == [1, 1, 1]

    def test_a_call_twice_lowers_its_turn(self):
        assert case([[FIND, FIND], [OPEN], "x y"])["optimal"]["turn_reward"]["0.0"] == 0.5

    def test_order_inside_a_turn_is_nothing(self):
        one = case([[FIND, ("find", {"a": 2}), OPEN]], [[OPEN]])
        other = case([[OPEN, ("find", {"a": 2}), FIND]], [[OPEN]])
        assert one["optimal"] == other["optimal"]

    def test_soft_rewards_sum_to_at_most_one(self):
        found = case([[FIND, FIND], [OPEN], [FIND]])["ot"]["turn_reward"]
        assert 2 * found["0.0"] + found["0.1"] + found["0.2"] <= 1
        assert found["0.2"] <= 1 / 4

    def test_identical_trajectories_have_exactly_nothing(self):
        for block in case(*[[[FIND], [OPEN, FIND], "x"]] * 7).values():
            assert not any(block["advantage"].values())


def test_calls_beside_an_answer_do_not_count():
    both = {"answer": "", "tool_calls": [{"name": "find", "arguments": {"a": 1}}]}
    found = case([[FIND], both], [both])
    assert found["optimal"]["turn_reward"] == {"0.0": 1, "0.1": 0, "1.0": 0}
    assert found["ot"]["turn_reward"]["0.0"] == pytest.approx(0.5)


def test_without_calls_or_references_nothing_is_earned():
    for block in case([[]], [[FIND]], references=[], unmatched=-0.5).values():
        assert list(block["turn_reward"].values()) == [0, 0]
    assert case([[("find", None)]])["optimal"]["turn_reward"]["0.0"] == pytest.approx(1 / 3)
    assert answer({}, {"nodes": []})["ot"] == {"turn_reward": {}, "advantage": {}, "trajectory_reward": {}}


def test_unmatched_calls_earn_what_the_parameter_says():
    found = case([[FIND, FIND, OPEN]], unmatched=-0.5)
    assert found["greedy"]["turn_reward"]["0.0"] == found["optimal"]["turn_reward"]["0.0"] == pytest.approx(1.5 / 3)


def test_references_of_a_task_are_its_own():
    nodes = [{"task": task, "id": f"{task}.root", "parent": None} for task in "pq"]
    for task in "qp":
        call = {"name": "find", "arguments": {"a": 1}}
        nodes.append({"task": task, "traj": task, "id": task, "parent": f"{task}.root", "tool_calls": [call]})
    found = answer({}, {"nodes": nodes, "references": {"q": {"reference_tool_calls": REFERENCES}}})
    assert found["optimal"]["turn_reward"] == {"q": 1, "p": 0}


BATCH = st.lists(st.tuples(st.integers(0, 2), st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0]), max_size=4)), max_size=7)


def advantages(batch):
    rewards = np.array([reward for _, rows in batch for reward in rows], float)
    offsets = np.cumsum([0, *[len(rows) for _, rows in batch]], dtype=np.int64)
    return turn_advantages(rewards, offsets, tasks=np.array([task for task, _ in batch], np.int64))


@given(BATCH, st.randoms())
@settings(max_examples=60, deadline=None)
def test_advantages_are_their_definition(batch, random):
    def scaled(value, members):
        if len(members) == 1:
            return value / (1 + 1e-6)
        return 0.0 if np.ptp(members) < 1e-9 else (value - np.mean(members)) / (np.std(members, ddof=1) + 1e-6)

    def returned(rows, place):
        return sum(0.9**k * reward for k, reward in enumerate(rows[place:]))

    expected, lone = [], []
    for task, rows in batch:
        group = [other for own, other in batch if own == task]
        for place in range(len(rows)):
            same = [returned(other, place) for other in group if len(other) > place]
            whole = scaled(sum(rows), [sum(other) for other in group])
            expected.append((whole + scaled(returned(rows, place), same)) / 2)
            lone.append(len(group) == 1 or len(same) == 1)
    found = advantages(batch)
    np.testing.assert_allclose(found.advantage, expected, atol=1e-6)
    assert found.degenerate.tolist() == lone
    order = list(range(len(batch)))
    random.shuffle(order)
    bounds = np.cumsum([0, *[len(rows) for _, rows in batch]])
    mixed = [row for place in order for row in range(bounds[place], bounds[place + 1])]
    np.testing.assert_allclose(
        advantages([batch[place] for place in order]).advantage, found.advantage[mixed], atol=1e-6
    )


def test_unknown_parameters_are_named():
    with pytest.raises(BadConfig, match="hungarian"):
        MatchtirParams("hungarian")
    with pytest.raises(BadConfig, match="sinkhorn_reg"):
        MatchtirParams(sinkhorn_reg=0)


WANTED = '[{"name": "a", "arguments": {"x": 1}}, {"name": "b", "arguments": {}}]'


#   0      4       7      10      four tasks of a trajectory each, so that rewards stand as they are
#   1      5       8      11
#   2      6       9              2 is rendered; 6 ends with a call and no answer
#   3
def calling():
    return spoken_trees(
        [-1, 0, 1, 2, -1, 4, 5, -1, 7, 8, -1, 10],
        [NA, NA, NA, 1, NA, NA, 0, NA, NA, 0.5, NA, 1],
        rendered=[2],
        tree=[0] * 4 + [1] * 3 + [2] * 3 + [3] * 2,
        tool_calls={
            1: '[{"name": "a", "arguments": {"x": 1.0}}]',
            2: '[{"name": "b"}]',
            5: '[{"name": "A", "arguments": {"x": 2}}, {"name": "c", "arguments": "?"}]',
            6: '[{"name": "b", "arguments": {}}]',
            8: "[" * 50_000,
            9: "[]",
        },
        reference_calls={0: WANTED, 4: WANTED, 7: "[]"},
    )


@pytest.mark.parametrize(
    ("params", "turns"),
    [
        pytest.param({}, (1, 1, 1 / 3, 1), id="one to one"),
        pytest.param({"assignment": "greedy"}, (1, 1, 1 / 3, 1), id="best first"),
        pytest.param({"unmatched": -0.5}, (1, 1, (2 / 3 - 1 / 2) / 2, 1), id="a fine"),
    ],
)
def test_turns_of_trees(params, turns):
    found = credited("matchtir", calling(), **params).advantage
    expected = [0.0, 0, 0, 0, 0, 0, 0, 0, 1 / 2 * (0.5 + 0.9 * 0.5), 0.5, 0, NA]
    for (first, last), rewards in zip(((1, 3), (5, 6)), (turns[:2], turns[2:]), strict=True):
        total = sum(rewards)
        expected[first] = (total + rewards[0] + 0.9 * rewards[1]) / 2
        expected[last] = (total + rewards[1]) / 2
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_transport_pays_a_call_its_share_of_the_references():
    found = credited("matchtir", calling(), assignment="soft").advantage
    np.testing.assert_allclose(found[[1, 3]], [(1.5 + 0.5 + 0.9) / 2, (1.5 + 1) / 2], rtol=1e-5)


def test_half_of_an_advantage_is_of_the_trajectory_and_half_of_the_turn():
    trees = spoken_trees(
        [-1, 0, 1, 0, 3],
        [NA, NA, 1, NA, 1],
        tool_calls={1: '[{"name": "b"}]', 3: '[{"name": "c"}]'},
        reference_calls={0: WANTED},
    )
    found = credited("matchtir", trees).advantage
    half = np.sqrt(0.5) / 2
    np.testing.assert_allclose(found, [0, 2 * half, half, -2 * half, -half], atol=1e-5)


@pytest.mark.parametrize("text", ["{", "{}", "[1]", '[{"arguments": {}}]'])
def test_references_that_are_none_are_named(text):
    trees = calling()
    texts = pl.Series([text] + [None] * 11, dtype=pl.String)
    with pytest.raises(BadScore, match=r"scores reference_calls: .* is not a list of named calls"):
        credited("matchtir", replace(trees, given={**trees.given, "reference_calls": texts}))


def test_calls_nested_beyond_what_can_be_compared():
    nested = '[{"name": "a", "arguments": {"x": ' + "[" * 600 + "]" * 600 + "}}]"
    assert read_calls(nested) is None or len(read_calls(nested)) == 1
    assert read_calls("[1]") == [Call(None, None)]
    assert read_calls("{}") is None


def test_take():
    calls, _ = call_columns([Call("a", {"x": 1, "y": 2}), Call("b", {}), Call("c", {"x": 3})], [])
    found = take(calls, np.array([2, 0, 2]))
    assert found.name.tolist() == [2, 0, 2]
    assert found.key.tolist() == [0, 0, 1, 0]
    assert found.offsets.tolist() == [0, 1, 3, 4]
