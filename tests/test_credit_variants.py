"""Credit by the methods that need a stage of variants: MALT after roles, BRPO after summaries."""

import re
from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest
from scripted_round import read, scripted
from varied_round import Cast

from pipeline.builders.roles import role_outputs
from pipeline.credit.malt import node_labels
from pipeline.credit.spo_tree import node_values
from pipeline.errors import BadConfig, BadTable
from pipeline.generation.engine import Request
from pipeline.stages.credit import CreditConfig, write_credit
from pipeline.stages.judging import rewards_by_node
from pipeline.stages.roles import RoleConfig, write_roles
from pipeline.stages.rollouts import RolloutConfig, write_rollouts
from pipeline.stages.summaries import SummaryConfig, write_summaries
from pipeline.stages.tasks import write_tasks
from pipeline.stages.verdicts import write_verdicts
from pipeline.stages.work import Work
from pipeline.trees.grow import read_trees

BUDGETS = 24
"""Parts of the longest answer; the first of them is shorter than a step."""


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Iterator[Work]:
    with scripted(tmp_path_factory.mktemp("round"), Cast()) as work:
        write_tasks(work)
        write_rollouts(work, RolloutConfig(group=4))
        write_roles(work, RoleConfig(width=2))
        write_summaries(work, SummaryConfig(per_task=2, support=BUDGETS, summaries=2))
        write_verdicts(work)
        yield work


def credit_of(work: Work, method: str, params: str = "") -> dict[tuple[str, int], dict]:
    write_credit(work, CreditConfig((method,), params))
    return {(row["tree"], row["node"]): row for row in read(work, "credit", method).to_dicts()}


def test_malt_sees_what_each_role_said(work: Work):
    found, rewards = credit_of(work, "malt"), rewards_by_node(read(work, "verdicts"))
    judged_first = 0
    for tree in read_trees(read(work, "nodes")).values():
        outputs = role_outputs(tree, rewards)
        values = node_values(outputs.trees)
        labels = node_labels(outputs.trees, values)
        assert outputs.trees.depth.max() == 3
        for node, value, label in zip(outputs.ends[1:], values[1:], labels[1:], strict=True):
            row = found[tree.tree, node]
            assert (row["value"], row["advantage"], row["mask"]) == (pytest.approx(value), label, label == 1)
            judged_first += tree[node]["origin"] == "generate" and (tree.tree, node) in rewards
            prompt = found[tree.tree, tree.path(node)[0]]
            assert (prompt["advantage"], prompt["mask"]) == (0, False)
    assert judged_first, "verdicts on first answers are there, and are not what counts"
    nodes = read(work, "nodes").filter(pl.col("origin").is_in(["generate", "verify", "refine"]))
    assert {(tree, node) for tree, node in nodes.select("tree", "node").rows()} < found.keys()


def test_brpo_follows_summaries(work: Work):
    params = f'{{"budgets": {list(range(1, BUDGETS + 1))}, "n_summary": 2}}'
    found, trees = credit_of(work, "brpo", params), read_trees(read(work, "nodes"))
    rewards, cases = rewards_by_node(read(work, "verdicts")), read(work, "variants", "summaries")
    budgets = {(row["tree"], row["node"]): int(row["value"]) for row in read(work, "scores").to_dicts()}
    stretches = early = 0
    for (name, leaf), rows in cases.group_by("tree", "source_leaf"):
        tree = next(tree for tree in trees.values() if tree.tree == name)
        rows = rows.sort("budget").to_dicts()
        begun = [row["pivot"] != 0 for row in rows]
        at_root = cases.filter((pl.col("tree") == name) & (pl.col("pivot") == 0)).to_dicts()
        scores = [rewards[name, leaf] if row["dropped"] else row["with_successes"] / row["with_count"] for row in rows]
        for place, row in enumerate(rows):
            if not begun[place]:
                same = [one["with_successes"] / one["with_count"] for one in at_root if one["budget"] == row["budget"]]
                scores[place], early = np.mean(same), early + 1
        path = tree.path(leaf)[1:]
        for at, step in enumerate(path[:-1]):
            following = next((node for node in path[at:-1] if (name, node) in budgets), None)
            if following is not None:
                place = budgets[name, following]
                assert found[name, step]["value"] == pytest.approx(sum(scores[place:]) / BUDGETS)
                assert found[name, step]["advantage"] is not None
                stretches += 1
        assert (name, leaf) not in budgets, "the answer is no thinking"
    assert stretches > 10
    assert early
    drawn = read(work, "nodes", "summaries")
    for row in drawn.filter(~pl.col("sampled")).to_dicts():
        assert found[row["tree"], row["node"]]["advantage"] == 0
    for row in drawn.filter(pl.col("finish").is_not_null()).to_dicts():
        on = trees[row["task"]].path(row["node"])
        assert (row["tree"], row["node"]) in budgets
        assert (found[row["tree"], row["node"]]["advantage"] is None) == (len(on) == 3)


def test_budgets_are_written_once(work: Work):
    before = {place.name("scores"): work.store.digest("scores", place) for place in work.places("scores")}
    for place in work.places("scores"):
        work.store.drop("scores", place)
    assert write_summaries(work, SummaryConfig(per_task=2, support=BUDGETS, summaries=2)).fresh == 0
    assert {place.name("scores"): work.store.digest("scores", place) for place in work.places("scores")} == before


CUT = RolloutConfig("brpo", params='{"traces": 2, "summaries": 2}')


class AtOnce(Cast):
    """Where it is made to answer: the value of the last line that it had finished."""

    def __call__(self, request: Request) -> list[int]:
        text = self.tokens._tokenizer.decode(request.prompt.tolist())
        if not text.endswith("#### "):
            return super().__call__(request)
        values = re.findall(r" = (-?\d+)\n", text.split("<|assistant|>")[1])
        return [*self.tokens.encode(values[-1] if values else "none").tolist(), 1]


@pytest.fixture
def cut(tmp_path) -> Iterator[Work]:
    with scripted(tmp_path, AtOnce()) as work:
        write_tasks(work)
        write_rollouts(work, CUT)
        yield work


def test_brpo_credits_what_the_strategy_grew(cut: Work):
    found, rewards = credit_of(cut, "brpo", '{"n_summary": 2}'), rewards_by_node(read(cut, "verdicts"))
    places = {(row["tree"], row["node"]): int(row["value"]) for row in read(cut, "scores").to_dicts()}
    stretches = 0
    for tree in read_trees(read(cut, "nodes")).values():
        lines = [tree.line(node) for node in range(len(tree))]
        scores: dict[int, dict[int, list[float]]] = {}
        for line in lines:
            if tree[line[-1]]["origin"] == "branch":
                at = places[tree.tree, line[-1]]
                scores.setdefault(line[1], {}).setdefault(at, []).append(rewards[tree.tree, line[-1]])
        assert [sorted(by_place) for by_place in scores.values()] == [[0, 1, 2, 3]] * 2, "by trace"
        for line in lines:
            key = tree.tree, line[-1]
            if tree[line[-1]]["origin"] == "sample" and key in places:
                later = [np.mean(scores[line[1]][place]) for place in range(places[key], 4)]
                assert found[key]["value"] == pytest.approx(sum(later) / 4)
                assert found[key]["advantage"] is not None
                stretches += 1
    assert stretches > 6
    assert any(row["advantage"] for row in found.values())


def test_budgets_of_rollouts_stand_with_them(cut: Work):
    [place] = cut.places("scores")
    digest = cut.store.digest("scores", place)
    assert write_rollouts(cut, CUT).fresh == 0
    cut.store.drop("scores", place)
    assert write_rollouts(cut, CUT).fresh == 1
    assert cut.store.digest("scores", place) == digest
    with pytest.raises(BadConfig, match="cut at budgets already"):
        write_summaries(cut)
    write_rollouts(cut, RolloutConfig(group=2))
    assert cut.places("scores") == [], "they went with the nodes that they were of"
    with pytest.raises(BadTable, match=r"there are no scores budget.*`summaries`"):
        credit_of(cut, "brpo")
    write_summaries(cut, SummaryConfig(summaries=2))
    assert credit_of(cut, "brpo", '{"n_summary": 2}')
