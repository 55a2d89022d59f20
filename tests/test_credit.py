"""Credit methods against the golden vectors, against pictures and against their direct definitions."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.credit.columns import Trees
from pipeline.credit.group import CONVENTIONS, GroupParams, group_advantages, group_credit, overlong_punishment
from pipeline.credit.spo_tree import SpoTreeParams, best_of_gain, node_values, spo_tree, value_std
from pipeline.credit.tempo import TempoParams, prefix_values, tempo
from pipeline.errors import BadConfig

NA = float("nan")


def golden(name: str) -> list:
    """The cases of a golden file, named."""
    cases = json.loads((Path(__file__).parent / "golden" / f"{name}.json").read_text())["cases"]
    return [pytest.param(case, id=case["name"]) for case in cases]


def build(parent, reward=None, *, tokens=None, tree=None) -> Trees:
    """Trees from the parents of the nodes, the verdicts and the tokens of each node (one token by default)."""
    count = len(parent)
    depth = np.zeros(count, np.int32)
    for row, above in enumerate(parent):
        depth[row] = 0 if above < 0 else depth[above] + 1
    tokens = [[row] for row in range(count)] if tokens is None else tokens
    return Trees(
        parent=np.array(parent, np.int32),
        depth=depth,
        tree=np.array(tree if tree is not None else [0] * count, np.int32),
        reward=np.array([NA] * count if reward is None else reward, np.float64),
        tokens=np.array([token for node in tokens for token in node], np.int32),
        token_offsets=np.cumsum([0, *map(len, tokens)], dtype=np.int64),
    )


def build_golden(nodes: list[dict]) -> tuple[Trees, list[str]]:
    """Trees of a golden case, and the ids of its nodes. A leaf without a reward is unfinished: 0."""
    ids = [node["id"] for node in nodes]
    inner = {node["parent"] for node in nodes}
    tasks = list(dict.fromkeys(node.get("task", "") for node in nodes))
    trees = build(
        [-1 if node["parent"] is None else ids.index(node["parent"]) for node in nodes],
        [NA if node["id"] in inner else node.get("reward", 0.0) for node in nodes],
        tokens=[node.get("token_ids", [0] * node["n_tokens"]) for node in nodes],
        tree=[tasks.index(node.get("task", "")) for node in nodes],
    )
    assert trees.depth.tolist() == [node["depth"] for node in nodes]
    return trees, ids


def assert_named(values, ids: list[str], expected: dict) -> None:
    """The values at the named nodes are those expected; null stands for NaN."""
    found = [values[ids.index(name)] for name in expected]
    np.testing.assert_allclose(found, [NA if value is None else value for value in expected.values()], atol=1e-6)


# --- the golden vectors


@pytest.mark.parametrize("case", golden("group_advantages"))
def test_group_golden(case):
    trees, ids = build_golden(case["input"]["nodes"])
    assert set(case["expected"]["trajectory_advantage"]) == set(CONVENTIONS)
    for convention, expected in case["expected"]["trajectory_advantage"].items():
        found = group_credit(trees, GroupParams(convention, **case["params"]))
        assert_named(found.advantage, ids, expected)


@pytest.mark.parametrize("case", golden("spo_tree"))
def test_spo_tree_golden(case):
    trees, ids = build_golden(case["input"]["nodes"])
    params, expected = case["params"], case["expected"]
    spread = {"std_ddof": params["std_ddof"], "std_eps": params["std_eps"]}
    found = spo_tree(trees, SpoTreeParams("centred", **spread))
    assert_named(found.value, ids, expected["value"])
    assert_named(found.advantage, ids, expected["advantage_centred"])
    assert_named(spo_tree(trees, SpoTreeParams("std", **spread)).advantage, ids, expected["advantage_std"])
    assert_named(best_of_gain(trees, found.value, samples=params["bok"]), ids, expected["bok4_gain"])
    assert_named(value_std(trees, found.value, ddof=params["std_ddof"]), ids, expected.get("value_std", {}))
    assert [name for name, keep in zip(ids, found.mask, strict=True) if keep] == expected["kept_nodes"]


@pytest.mark.parametrize("case", golden("tempo"))
def test_tempo_golden(case):
    nodes, params = case["input"]["nodes"], case["params"]
    trees, ids = build_golden(nodes)
    found = tempo(trees, TempoParams(params["normalize_by_std"], params["eps"], params["ddof"]))
    for name, expected in case["expected"]["token_advantages"].items():
        row = ids.index(name)
        start, end = trees.token_offsets[row : row + 2]
        np.testing.assert_allclose(found.token_advantages[start:end], expected, atol=1e-6)
    for task, expected in case["expected"]["prefix_values"].items():
        members = [node for node in nodes if node["task"] == task and node["parent"] is not None]
        values = direct_prefixes([node["token_ids"] for node in members], [node["reward"] for node in members])
        root = next(index for index, node in enumerate(nodes) if node["task"] == task and node["parent"] is None)
        values[""] = found.value[root]
        assert values == pytest.approx(expected, abs=1e-6)


def direct_prefixes(responses, rewards) -> dict[str, float]:
    """The values that `prefix_values` gives, by prefix."""
    offsets = np.cumsum([0, *map(len, responses)])
    tokens = np.array([token for response in responses for token in response], np.int32)
    values = prefix_values(tokens, offsets, groups=np.zeros(len(responses), np.int64), rewards=np.array(rewards))
    return {
        ",".join(map(str, response[: place + 1])): float(values[start + place])
        for start, response in zip(offsets, responses, strict=False)
        for place in range(len(response))
    }


# --- group advantages


@pytest.mark.parametrize(
    ("convention", "alone"),
    [
        ("grpo_verl", 1 / (1 + 1e-6)),
        ("grpo_trl_scale_group", NA),
        ("grpo_trl_scale_batch", 0),
        ("dr_grpo_verl", 1),
        ("grpo_trl_scale_none", 0),
        ("rloo_verl", 1),
        ("rloo_trl", NA),
        ("opo_verl", 1),
    ],
)
def test_a_group_of_one_leaves_the_others_as_usual(convention, alone):
    rewards, lengths = np.array([1.0, 1.0, 0.0]), np.array([3, 1, 3])
    with_one = group_advantages(rewards, np.array([0, 1, 1]), lengths=lengths, params=GroupParams(convention))
    without = group_advantages(rewards[1:], np.array([0, 0]), lengths=lengths[1:], params=GroupParams(convention))
    np.testing.assert_allclose(with_one[0], alone, atol=1e-12)
    if convention == "grpo_trl_scale_batch":  # whose batch holds all three
        without = np.array([0.5, -0.5]) / (np.std([1, 1, 0], ddof=1) + 1e-4)
    np.testing.assert_allclose(with_one[1:], without, atol=1e-12)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_equal_rewards_give_exactly_nothing(convention):
    rewards, groups = np.full(7, 0.1), np.array([0, 0, 0, 1, 1, 1, 1])
    found = group_advantages(rewards, groups, lengths=np.arange(7), params=GroupParams(convention))
    assert found.tolist() == [0.0] * 7


#      0         the question
#    1   2   5   three rollouts
#    3   4       the second steps of two
FOREST = (-1, 0, 0, 1, 2, 0)


@pytest.mark.parametrize(
    ("reward", "credit"),
    [
        pytest.param((1, 0, 0), (0, 2 / 3, -1 / 3, 2 / 3, -1 / 3, -1 / 3), id="one right of three"),
        pytest.param((1, 0, NA), (0, 1 / 2, -1 / 2, 1 / 2, -1 / 2, NA), id="no verdict, no part in the group"),
        pytest.param((1, 1, 1), (0, 0, 0, 0, 0, 0), id="all alike"),
        pytest.param((NA, NA, NA), (0, NA, NA, NA, NA, NA), id="nothing known"),
    ],
)
def test_group_credit_goes_to_every_step_of_the_path(reward, credit):
    found = group_credit(build(FOREST, (NA, NA, NA, *reward)), GroupParams("dr_grpo_verl"))
    np.testing.assert_allclose(found.advantage, credit, atol=1e-12)


def test_group_credit_of_a_shared_step_is_the_mean_of_its_leaves():
    #   0
    #  1  4
    # 2 3
    trees = build((-1, 0, 1, 1, 0), (NA, NA, 1, 0, 0))
    found = group_credit(trees, GroupParams("dr_grpo_verl"))
    np.testing.assert_allclose(found.advantage, (0, 1 / 6, 2 / 3, -1 / 3, -1 / 3), atol=1e-12)


def test_opo_counts_the_tokens_of_the_path_without_the_prompt():
    trees = build(FOREST, (NA, NA, NA, 1, 0, 0), tokens=[[9] * 50, [1], [2], [3, 4], [5], [6, 7, 8]])
    found = group_credit(trees, GroupParams("opo_verl"))
    np.testing.assert_allclose(found.advantage[3:], np.array([1, 0, 0]) - 3 / 8, atol=1e-12)


# --- SPO-tree

#      0          the question
#    1   2        two first steps
#   3 4  5        leaves
TREE = (-1, 0, 0, 1, 1, 2)


@pytest.mark.parametrize(
    ("reward", "value", "credit"),
    [
        pytest.param((1, 0, 1), (3 / 4, 1 / 2, 1, 1, 0, 1), (0, -1 / 4, 1 / 4, 1 / 2, -1 / 2, 0), id="three judged"),
        pytest.param((1, 1, 1), (1, 1, 1, 1, 1, 1), (0, 0, 0, 0, 0, 0), id="all alike"),
        pytest.param((NA, NA, 1), (1, NA, 1, NA, NA, 1), (0, NA, 0, NA, NA, 0), id="unjudged branch stays unknown"),
        pytest.param((0, NA, 1), (1 / 2, 0, 1, 0, NA, 1), (0, -1 / 2, 1 / 2, 0, NA, 0), id="unjudged leaf is skipped"),
    ],
)
def test_spo_tree(reward, value, credit):
    found = spo_tree(build(TREE, (NA, NA, NA, *reward)))
    np.testing.assert_allclose(found.value, value, atol=1e-12)
    np.testing.assert_allclose(found.advantage, credit, atol=1e-12)
    assert found.mask.tolist() == [bool(abs(step) > 1e-9) for step in credit]


def test_spo_tree_spread_of_children():
    trees = build(TREE, (NA, NA, NA, 1, 0, 1))
    np.testing.assert_allclose(value_std(trees, node_values(trees)), (1 / 4, 1 / 2, 0, NA, NA, NA), atol=1e-12)


@pytest.mark.parametrize("advantage", ["centred", "std"])
def test_spo_tree_takes_rounding_for_nothing(advantage):
    assert 0.1 + 0.2 != 0.3
    found = spo_tree(build((-1, 0, 0), (NA, 0.3, 0.1 + 0.2)), SpoTreeParams(advantage))
    assert found.advantage.tolist() == [0, 0, 0]
    assert not found.mask.any()


def test_spo_tree_leaves_out_empty_steps():
    found = spo_tree(build((-1, 0, 0), (NA, 1, 0), tokens=[[1], [], [2]]))
    assert found.mask.tolist() == [False, False, True]


@st.composite
def forests(draw) -> Trees:
    """Trees of up to 24 nodes, some leaves without a verdict."""
    count = draw(st.integers(1, 24))
    parent, tree = [-1], [0]
    for row in range(1, count):
        above = draw(st.integers(-1, row - 1))
        parent.append(above)
        tree.append(max(tree) + 1 if above < 0 else tree[above])
    leaf = [row not in parent for row in range(count)]
    reward = [draw(st.sampled_from([NA, 0.0, 0.1, 0.7, 1.0])) if end else NA for end in leaf]
    tokens = [draw(st.lists(st.integers(0, 2), max_size=3)) for _ in range(count)]
    return build(parent, reward, tokens=tokens, tree=tree)


@given(forests())
@settings(max_examples=60, deadline=None)
def test_default_advantages_of_siblings_sum_to_nothing(trees):
    found = spo_tree(trees)
    below = np.zeros(len(trees.parent))
    for row, above in enumerate(trees.parent):
        if above >= 0 and not np.isnan(found.advantage[row]):
            below[above] += found.advantage[row]
            np.testing.assert_allclose(found.advantage[row], found.value[row] - found.value[above], atol=1e-9)
    np.testing.assert_allclose(below, 0, atol=1e-9)


# --- TEMPO


def direct_tempo(responses, rewards, *, normalize_by_std=True, eps=1e-6) -> list[list[float]]:
    """The definition, member by member and token by token."""
    mean, std = np.mean(rewards), np.std(rewards, ddof=1) if len(rewards) > 1 else 0.0
    alike = max(rewards) == min(rewards)
    found = []
    for response, reward in zip(responses, rewards, strict=True):
        value, advantages = mean, []
        for place in range(len(response)):
            begun = [r for k, r in zip(responses, rewards, strict=True) if k[: place + 1] == response[: place + 1]]
            advantage = reward - mean + np.mean(begun) - value
            advantages.append(0.0 if alike else advantage / (std + eps if normalize_by_std else 1.0))
            value = np.mean(begun)
        found.append(advantages)
    return found


def build_chains(groups, cuts) -> tuple[Trees, list[list[int]]]:
    """A tree a group, each response a chain of two nodes cut somewhere; the rows of each response's chain."""
    parent, reward, tokens, tree, chains = [], [], [], [], []
    for code, (responses, rewards) in enumerate(groups):
        root = len(parent)
        parent.append(-1)
        reward.append(NA)
        tokens.append([7, 7, 7])
        tree.append(code)
        for response, verdict in zip(responses, rewards, strict=True):
            cut = cuts % (len(response) + 1)
            chains.append([len(parent), len(parent) + 1])
            parent += [root, len(parent)]
            reward += [NA, verdict]
            tokens += [response[:cut], response[cut:]]
            tree += [code, code]
    return build(parent, reward, tokens=tokens, tree=tree), chains


GROUPS = st.lists(
    st.lists(
        st.tuples(st.lists(st.integers(0, 2), max_size=7), st.sampled_from([0.0, 0.1, 0.7, 1.0])),
        min_size=1,
        max_size=6,
    ).map(lambda members: ([list(tokens) for tokens, _ in members], [reward for _, reward in members])),
    min_size=1,
    max_size=3,
)


@given(GROUPS, st.integers(0, 7), st.booleans())
@settings(max_examples=150, deadline=None)
def test_tempo_is_its_definition(groups, cuts, by_std):
    trees, chains = build_chains(groups, cuts)
    found = tempo(trees, TempoParams(normalize_by_std=by_std))
    expected = [row for group in groups for row in direct_tempo(*group, normalize_by_std=by_std)]
    for chain, row in zip(chains, expected, strict=True):
        pieces = [found.token_advantages[slice(*trees.token_offsets[node : node + 2])] for node in chain]
        np.testing.assert_allclose(np.concatenate(pieces), row, atol=1e-9)
        for node, piece in zip(chain, pieces, strict=True):
            np.testing.assert_allclose(found.advantage[node], piece.mean() if len(piece) else NA, atol=1e-9)


@given(GROUPS, st.randoms())
@settings(max_examples=60, deadline=None)
def test_tempo_permutes_with_its_group(groups, random):
    responses, rewards = groups[0]
    order = list(range(len(responses)))
    random.shuffle(order)
    trees, chains = build_chains([(responses, rewards)], 3)
    mixed, mixed_chains = build_chains([([responses[i] for i in order], [rewards[i] for i in order])], 3)
    here, there = tempo(trees), tempo(mixed)
    for place, member in enumerate(order):
        for node, other in zip(chains[member], mixed_chains[place], strict=True):
            np.testing.assert_allclose(
                here.token_advantages[slice(*trees.token_offsets[node : node + 2])],
                there.token_advantages[slice(*mixed.token_offsets[other : other + 2])],
                atol=1e-9,
            )


def test_tempo_telescopes():
    responses, rewards = [[1, 2, 3], [1, 2, 4], [1, 2, 3], [5]], [1.0, 0.0, 0.0, 1.0]
    trees, chains = build_chains([(responses, rewards)], 0)
    found = tempo(trees, TempoParams(normalize_by_std=False))
    final = [0.5, 0.0, 0.5, 1.0]  # mean reward of those with the same whole response
    for chain, response, reward, last in zip(chains, responses, rewards, final, strict=True):
        total = found.token_advantages[slice(*trees.token_offsets[chain[1] : chain[1] + 2])].sum()
        assert total == pytest.approx(len(response) * (reward - 0.5) + last - 0.5)
        assert found.value[chain[1]] == pytest.approx(last)


def test_tempo_of_equal_rewards_is_exactly_nothing():
    trees, _ = build_chains([([[place % 3, place % 2] for place in range(3000)], [0.1] * 3000)], 0)
    assert not tempo(trees).token_advantages.any()


def test_tempo_leaves_out_the_unjudged_and_the_alone():
    trees = build(
        (-1, 0, 0, 0, -1, 4),
        (NA, 1, 0, NA, NA, 1),
        tokens=[[9], [1, 2], [1, 3], [1, 2], [9], [4, 5]],
        tree=(0, 0, 0, 0, 1, 1),
    )
    found = tempo(trees, TempoParams(normalize_by_std=False))
    np.testing.assert_allclose(found.token_advantages, (0, 1 / 2, 1, -1 / 2, -1, NA, NA, 0, 0, 0), atol=1e-12)
    np.testing.assert_allclose(found.advantage, (0, 3 / 4, -3 / 4, NA, 0, 0), atol=1e-12)
    np.testing.assert_allclose(found.value, (1 / 2, 1, 0, NA, 1, 1), atol=1e-12)


def test_overlong_answers_are_punished_in_a_line():
    found = overlong_punishment(np.array([0, 6, 7, 9, 10, 11]), most=10, cache=4)
    assert found.tolist() == [0, 0, -0.25, -0.75, -1, -1]
    assert overlong_punishment(np.array([10, 11]), most=10, cache=0).tolist() == [0, -1]


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_punishment_is_part_of_the_reward(convention):
    tokens = [[9] * 50, [1], [2], [3, 4], [5, 6, 7], [8]]  # trajectories of 3, 4 and 1
    punished = GroupParams(convention, overlong_max=4, overlong_cache=2)
    found = group_credit(build(FOREST, (NA, NA, NA, 1, 1, 0), tokens=tokens), punished)
    plain = group_credit(build(FOREST, (NA, NA, NA, 1 / 2, 0, 0), tokens=tokens), GroupParams(convention))
    np.testing.assert_allclose(found.advantage, plain.advantage, atol=1e-12)


def test_tempo_of_a_shared_step_is_the_mean_of_its_leaves():
    trees = build((-1, 0, 1, 1), (NA, NA, 1, 0), tokens=[[9], [1], [2], [3]])
    found = tempo(trees, TempoParams(normalize_by_std=False))
    np.testing.assert_allclose(found.advantage, (0, 0, 1, -1), atol=1e-12)


# --- parameters


def test_unknown_parameters_are_named():
    with pytest.raises(BadConfig, match="grpo_typo"):
        GroupParams("grpo_typo")
    with pytest.raises(BadConfig, match="overlong_cache 5 is not in 0 to 4"):
        GroupParams(overlong_max=4, overlong_cache=5)
    with pytest.raises(BadConfig, match="rloo"):
        SpoTreeParams("rloo")
