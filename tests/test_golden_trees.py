"""Vectors of the methods of trees and budgets: what may stand in them that those of the authors have not."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pipeline.golden import GOLDEN
from pipeline.golden.compare import Tolerance, plain
from pipeline.golden.run import run_case

FOLDER = Path(__file__).parent / "golden"
CLOSE = Tolerance(rtol=1e-6, atol=1e-6)
METHODS = (
    "adaptive_reasoning",
    "brpo",
    "curriculum_length",
    "group_advantages",
    "groundedprm",
    "knapsack",
    "knapsack_success_rate",
    "math_shepherd",
    "omegaprm",
    "pppo",
    "processbench",
    "spo_chain",
    "spo_tree",
    "tempo",
    "treeps_rag",
    "vsrm",
)


def cases(name: str) -> list[dict[str, Any]]:
    return json.loads((FOLDER / f"{name}.json").read_text())["cases"]


def answer(name: str, params: dict[str, Any], **given: Any) -> dict[str, Any]:
    return plain(import_module(GOLDEN[name]).answer(params, given))


def difference(name: str, case: dict[str, Any]) -> str | None:
    return run_case(import_module(GOLDEN[name]), case, CLOSE)[1]


def group(*rewards: float | None, **columns: Any) -> list[dict[str, Any]]:
    """Leaves 0, 1, ... of task `a` below one root."""
    leaves = [{"task": "a", "id": str(place), "parent": "", "reward": reward} for place, reward in enumerate(rewards)]
    return [{"task": "a", "id": "", "parent": None}, *(leaf | columns for leaf in leaves)]


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_does_not_know_is_not_looked_at(name):
    for case in cases(name):
        given = {
            key: [one | {"remark": "x"} if isinstance(one, dict) else one for one in value]
            if isinstance(value, list)
            else value
            for key, value in case["input"].items()
        }
        more = case | {"params": case["params"] | {"remark": "x"}, "input": given | {"remark": "x"}}
        assert difference(name, more) is None


@pytest.mark.parametrize("name", METHODS)
def test_children_may_be_listed_before_their_parents(name):
    for case in cases(name):
        if "nodes" in case["input"]:
            nodes = sorted(case["input"]["nodes"], key=lambda node: -node["depth"])
            assert difference(name, case | {"input": case["input"] | {"nodes": nodes}}) is None


def test_rewards_are_any_numbers():
    nodes, centred = group(-1, 3.0, -1.0, token_ids=[1]), pytest.approx({"0": -4 / 3, "1": 8 / 3, "2": -4 / 3})
    assert answer("group_advantages", {}, nodes=nodes)["trajectory_advantage"]["dr_grpo_verl"] == centred
    found = answer("spo_tree", {}, nodes=nodes)
    assert found["advantage_centred"] == centred
    assert found["value"][""] == pytest.approx(1 / 3)
    found = answer("tempo", {"normalize_by_std": False}, nodes=nodes)
    assert {name: tokens[0] for name, tokens in found["token_advantages"].items()} == centred
    assert found["prefix_values"]["a"] == pytest.approx({"": 1 / 3, "1": 1 / 3})


def test_unfinished_leaves_have_the_penalty_that_a_case_names():
    nodes, centred = group(None, 0, token_ids=[1]), pytest.approx({"0": -0.25, "1": 0.25})
    params = {"unfinished_penalty": -0.5, "normalize_by_std": False}
    assert answer("group_advantages", params, nodes=nodes)["trajectory_advantage"]["dr_grpo_verl"] == centred
    assert answer("spo_tree", params, nodes=nodes)["advantage_centred"] == centred
    found = answer("tempo", params, nodes=nodes)["token_advantages"]
    assert {name: tokens[0] for name, tokens in found.items()} == centred


def test_a_task_without_responses_has_none():
    nodes = group()
    assert not any(answer("group_advantages", {}, nodes=nodes)["trajectory_advantage"].values())
    found = answer("tempo", {}, nodes=nodes)
    assert found == {"token_advantages": {}, "prefix_values": {"a": {"": None}}}


@pytest.mark.parametrize(
    ("columns", "kept"),
    [
        pytest.param({}, ["0", "1"], id="not said: not empty"),
        pytest.param({"text": "x"}, ["0", "1"], id="text"),
        pytest.param({"text": ""}, [], id="empty text"),
        pytest.param({"n_tokens": 0}, [], id="no tokens"),
    ],
)
def test_spo_tree_drops_nodes_of_empty_text(columns, kept):
    assert answer("spo_tree", {}, nodes=group(0, 1, **columns))["kept_nodes"] == kept


def test_a_node_is_above_itself():
    nodes = [{"id": "a", "parent": "b"}, {"id": "b", "parent": "a"}]
    with pytest.raises(ValueError, match="'a' is above itself"):
        answer("treeps_rag", {}, nodes=nodes)
