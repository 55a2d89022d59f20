"""Vectors of turns of trajectories: what a node may leave out, what is no matter of the method, where nodes stand."""

from __future__ import annotations

import json
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.golden import GOLDEN
from pipeline.golden.compare import Tolerance
from pipeline.golden.forest import turns
from pipeline.golden.run import run_case

FOLDER = Path(__file__).parent / "golden"
CLOSE = Tolerance(rtol=1e-6, atol=1e-6)
OPTIONAL = (
    *("reward", "outcome", "episode_score", "episode_return", "tool_calls", "valid", "done", "key", "finished"),
    *("answer", "chunk_useful", "disc_scores", "attribution", "achieved", "mode", "decision", "state_hash", "tag"),
)
METHODS = (
    *("gigpo", "san", "matchtir", "mars", "archer", "poad", "oprl", "search_r2", "adasearch", "epo", "sotopia_rl"),
    *("calm", "lare", "gtalign"),
)


def cases(method):
    return json.loads((FOLDER / f"{method}.json").read_text())["cases"]


def difference(method, case):
    return run_case(import_module(GOLDEN[method]), case, CLOSE)[1]


@pytest.mark.parametrize("method", METHODS)
def test_null_is_absent(method):
    for case in cases(method):
        nodes = [dict.fromkeys(OPTIONAL) | node for node in case["input"]["nodes"]]
        assert difference(method, case | {"input": case["input"] | {"nodes": nodes}}) is None


@pytest.mark.parametrize("method", [*METHODS, "turn_control", "knapsack", "knapsack_success_rate"])
def test_what_is_not_known_is_not_looked_at(method):
    for case in cases(method):
        given = case["input"] | {"remark": ["x"]}
        if "nodes" in given:
            given["nodes"] = [node | {"remark": {"x": 1}} for node in given["nodes"]]
        assert difference(method, case | {"params": case["params"] | {"remark": "x"}, "input": given}) is None


@pytest.mark.parametrize("method", METHODS)
def test_turns_count_and_not_where_they_are_listed(method):
    for case in cases(method):
        nodes = sorted(case["input"]["nodes"], key=lambda node: -node.get("turn", 99))  # the first trajectory last
        found = turns(nodes)
        assert all(node["turn"] == place for node, place in zip(found.nodes, places(found.offsets), strict=True))
        if method not in ("gigpo", "sotopia_rl", "lare"):  # which list by the order of trajectories, or of turns
            assert difference(method, case | {"input": case["input"] | {"nodes": nodes}}) is None


def places(offsets):
    return [place for start, end in pairwise(offsets) for place in range(end - start)]


def test_two_tasks_may_have_trajectories_of_one_name():
    nodes = [
        {"task": task, "id": f"{task}{turn}", "parent": "r", "traj": "a", "turn": turn}
        for turn in (1, 0)
        for task in "xy"
    ]
    found = turns(nodes)
    assert (found.ids, found.trajectories, found.groups.tolist()) == (["x0", "x1", "y0", "y1"], ["a", "a"], [0, 1])


def test_an_unfinished_answer_is_none_and_null_says_nothing():
    case = cases("search_r2")[0]
    nodes = case["input"]["nodes"]
    answered = [node["id"] for node in nodes if node.get("answer") == "paris."]

    def outcome(finished):
        more = [node | ({"finished": finished} if node["id"] in answered else {}) for node in nodes]
        return import_module(GOLDEN["search_r2"]).answer(case["params"], case["input"] | {"nodes": more})["outcome"]

    assert [outcome(finished)["q1.0"] for finished in (True, None, False)] == [1, 1, 0]


def test_a_state_of_null_is_told_by_its_text():
    nodes = [{"task": "t", "id": "r", "parent": None}] + [
        {"task": "t", "id": name, "parent": "r", "traj": name, "turn": 0, "state_hash": None, "state_text": text}
        for name, text in (("a", "hall"), ("b", "hall"), ("c", None))
    ]
    assert import_module(GOLDEN["gigpo"]).answer({}, {"nodes": nodes})["step_groups"] == [["a", "b"], ["c"]]
