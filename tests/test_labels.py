"""Step labels against the golden vectors and against pictures."""

import json
from pathlib import Path

import polars as pl
import pytest

from pipeline.errors import BadConfig
from pipeline.labels import LABELLERS
from pipeline.labels.monte_carlo import MonteCarloParams, first_error, monte_carlo
from pipeline.statistics import wilson
from schemas import StepLabels


class Forest:
    """Nodes and verdicts of one tree, grown a node at a time; node 0 is the question."""

    def __init__(self):
        self.nodes, self.verdicts = [], []
        self.add(None, "prompt", kind="prompt")

    def add(self, parent, origin, *, kind="step", tokens=2, reward=None) -> int:
        node = len(self.nodes)
        depth = 0 if parent is None else self.nodes[parent]["depth"] + 1
        self.nodes.append(
            {"task": "t", "tree": "t.0", "node": node, "parent": parent, "depth": depth}
            | {"kind": kind, "origin": origin, "token_ids": [1] * tokens}
        )
        if reward is not None:
            self.verdicts.append({"tree": "t.0", "node": node, "reward": reward})
        return node

    def frames(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        whole = {"node": pl.Int32, "parent": pl.Int32, "depth": pl.Int32, "token_ids": pl.List(pl.Int32)}
        verdicts = {"tree": pl.String, "node": pl.Int32, "reward": pl.Float32}
        return pl.DataFrame(self.nodes, schema_overrides=whole), pl.DataFrame(self.verdicts, schema=verdicts)

    def label(self, params: MonteCarloParams = MonteCarloParams(), *, root: bool = False) -> dict[int, dict]:
        """The labels of steps by node, on request with the question's; the frame is a valid table."""
        frame = StepLabels.validate(monte_carlo(*self.frames(), params))
        return {row["node"]: row for row in frame.to_dicts() if root or row["node"]}


def golden() -> list:
    cases = json.loads((Path(__file__).parent / "golden" / "math_shepherd.json").read_text())["cases"]
    return [pytest.param(case, id=case["name"]) for case in cases]


@pytest.mark.parametrize("case", golden())
def test_math_shepherd_golden(case):
    forest, above, rows = Forest(), 0, {}
    for step in case["input"]["nodes"]:
        above = rows[step["id"]] = forest.add(above, "sample", reward=step.get("reward"))
    for step in case["input"]["nodes"]:
        for reward in step.get("mc_rewards", ()):
            forest.add(forest.add(rows[step["id"]], "branch"), "branch", reward=reward)
    labels, expected = forest.label(), case["expected"]
    assert set(labels) == set(rows.values())
    for name, row in rows.items():
        assert labels[row]["soft"] == pytest.approx(expected["soft_label"][name], abs=1e-6)
        assert labels[row]["hard"] == bool(expected["hard_label"][name])
        assert labels[row]["k"] == (case["params"]["n_rollouts"] if labels[row]["tokens"] is not None else 1)
    assert first_error([labels[row]["hard"] for row in rows.values()]) == expected["first_error_index"]


def test_a_step_has_the_share_of_its_own_continuations():
    # 0 question - 1 - 2 - 3 right; from 1 three branches (right, wrong, no verdict), from 2 one wrong
    forest = Forest()
    first = forest.add(0, "sample")
    second = forest.add(first, "sample")
    last = forest.add(second, "sample", reward=1.0)
    forest.add(forest.add(first, "branch", tokens=3), "branch", tokens=4, reward=1.0)
    forest.add(first, "branch", tokens=5, reward=0.0)
    forest.add(first, "branch", tokens=6)
    forest.add(second, "branch", tokens=7, reward=0.0)
    labels = forest.label()
    assert {node: (row["k"], row["successes"], row["soft"], row["hard"]) for node, row in labels.items()} == {
        first: (2, 1, 0.5, True),
        second: (1, 0, 0.0, False),
        last: (1, 1, 1.0, True),
    }
    assert [labels[node]["tokens"] for node in (first, second, last)] == [3 + 4 + 5 + 6, 7, None]
    low, high = wilson(1, 2)
    assert (labels[first]["low"], labels[first]["high"]) == pytest.approx((float(low), float(high)))
    assert (labels[first]["labeller"], labels[first]["version"]) == ("monte_carlo", "2")


def test_steps_without_a_sample_have_no_label():
    forest = Forest()
    first = forest.add(0, "sample")
    forest.add(first, "sample")  # an end without a verdict
    forest.add(first, "branch")  # a continuation without one
    assert forest.label() == {}


def test_only_steps_of_plain_rollouts_are_labelled():
    forest = Forest()
    leaf = forest.add(0, "sample", reward=0.0)
    prompt = forest.add(leaf, "prompt", kind="prompt")  # a retry hangs below the judged leaf
    forest.add(forest.add(prompt, "reflection", kind="reflection"), "guided_retry", reward=1.0)
    forest.add(0, "branch", reward=1.0)
    assert {node: row["soft"] for node, row in forest.label().items()} == {leaf: 0.0}


def test_continuations_that_share_a_first_step_count_each():
    forest = Forest()
    step = forest.add(0, "sample")
    shared = forest.add(step, "branch", tokens=1)
    forest.add(shared, "branch", tokens=1, reward=1.0)
    forest.add(shared, "branch", tokens=1, reward=0.0)
    label = forest.label()[step]
    assert (label["k"], label["successes"], label["tokens"]) == (2, 1, 3)


def test_graded_rewards_are_averaged():
    forest = Forest()
    step = forest.add(0, "sample")
    for reward in (0.5, 0.0, 0.25, 0.25):
        forest.add(step, "branch", reward=reward)
    label = forest.label()[step]
    assert (label["soft"], label["successes"], label["hard"]) == (0.25, 3, True)
    assert label["low"] < 0.25 < label["high"]


def test_no_nodes_no_labels():
    nodes, verdicts = Forest().frames()
    assert len(StepLabels.validate(LABELLERS["monte_carlo"](nodes.clear(), verdicts))) == 0


@pytest.mark.parametrize(
    ("hard", "index"),
    [([True, True], -1), ([True, False, False], 1), ([False, True], 0), ([None, True, False], 2), ([], -1)],
)
def test_first_error(hard, index):
    assert first_error(hard) == index


def test_rollouts_and_branches_from_the_question_are_its_samples():
    forest = Forest()
    forest.add(0, "sample", reward=1.0)
    forest.add(forest.add(0, "sample"), "sample", reward=0.0)
    assert {name: forest.label(root=True)[0][name] for name in ("k", "soft", "tokens")} == {
        "k": 2,
        "soft": 0.5,
        "tokens": None,
    }
    forest.add(0, "branch", tokens=5, reward=1.0)
    label = forest.label(root=True)[0]
    assert (label["k"], label["successes"], label["tokens"]) == (3, 2, 5)


def test_continuations_beside_an_intervention_count_and_those_after_it_do_not():
    #   0 question - 1 - 2 wrong; an intervention in place of 2 hangs below 1
    forest = Forest()
    first = forest.add(0, "sample")
    last = forest.add(first, "sample", reward=0.0)
    edit = forest.add(first, "intervention")
    forest.add(forest.add(edit, "continuation"), "continuation", reward=1.0)
    forest.add(first, "continuation", tokens=7, reward=0.0)
    labels = forest.label()
    assert {node: (row["k"], row["soft"]) for node, row in labels.items()} == {first: (1, 0.0), last: (1, 0.0)}
    assert labels[first]["tokens"] == 7


@pytest.mark.parametrize(
    ("params", "hard"),
    [
        (MonteCarloParams(), True),
        (MonteCarloParams(threshold=0.25), False),
        (MonteCarloParams(threshold=0.2), True),
        (MonteCarloParams(threshold=0.5, undecided=True), None),
        (MonteCarloParams(threshold=0.9, undecided=True), False),
        (MonteCarloParams(threshold=0.01, undecided=True), True),
    ],
)
def test_a_hard_label_is_above_the_threshold_and_undecided_where_the_interval_holds_it(params, hard):
    forest = Forest()
    step = forest.add(0, "sample")
    for reward in (1.0, 0.0, 0.0, 0.0):
        forest.add(step, "branch", reward=reward)
    assert forest.label(params)[step]["hard"] is hard


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threshold": 1.0}, "threshold 1.0"),
        ({"undecided": True}, "undecided with threshold 0; give a threshold above"),
    ],
)
def test_parameters_that_cannot_be(options, said):
    with pytest.raises(BadConfig, match=said):
        MonteCarloParams(**options)
