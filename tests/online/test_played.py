"""Online RL on environments: a puzzle with GiGPO, a game for two with MARS."""

from __future__ import annotations

import json
from dataclasses import replace

import polars as pl
import pytest
from environments.played_round import SEEDS, Script, played
from environments.searching import HOPS, VILLAGE, Searcher, search

from pipeline.errors import BadConfig
from pipeline.stages.work import Work
from trainers.online.rounds import OnlineConfig, train_online

PATH = (
    'name = "gymnasium"\nid = "pipeline.environments.puzzles:NumberPath-v0"\n'
    'actions = ["add 3", "double", "subtract 1"]\nseconds = 30'
)
KUHN = 'name = "open_spiel"\ngame = "kuhn_poker"'
CHANGES = json.dumps({"group": 3, "minibatch": 4})


def steps_on(text: str, sample: int) -> str:
    return ("add 3", "double", "subtract 1")[(sample + text.count("<|assistant|>")) % 3]


def moves(text: str, sample: int) -> str:
    found = text.split("Moves: ")[-1].split("<|end|>")[0].split(", ")
    return f"I take {found[sample % len(found)]}"


def trained(work: Work, recipe: str, *, changes: str = CHANGES) -> pl.DataFrame:
    """Rows of a round, once its policy has been made."""
    report = train_online(work, OnlineConfig(recipe, rounds=1, changes=changes))
    assert report.fresh == 1
    assert 0 <= report.numbers["reward"] <= 1
    assert 0 <= report.numbers["score"] <= 1
    return work.store.read("rl_samples", work.places("rl_samples"))


def test_a_puzzle(tmp_path):
    with played(tmp_path, PATH, SEEDS, steps_on) as work:
        rows = trained(work, "gigpo")
        nodes = work.store.read("nodes", work.places("nodes"))
    said = nodes.filter("sampled")["token_count"].sum()
    assert 0 < rows["loss_mask"].list.sum().sum() <= said
    told = rows.filter(~pl.col("loss_mask").list.all())
    assert told.height  # what the environment says stands in the answer, and is in no loss
    assert told["logprobs"].list.drop_nulls().list.len().sum() == told["loss_mask"].list.sum().sum()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_game_for_two(tmp_path):
    with played(tmp_path, KUHN, SEEDS, moves) as work:
        rows = trained(work, "mars")
    assert rows["tree"].n_unique() > rows["task"].n_unique()  # a tree a seat


GROWN = {"strategy": "treeps_rag", "strategy_params": {"threshold": 0.8, "width": 3, "depth": 3}}


def test_trees_of_searches(tmp_path):
    """Of three first searches one is a copy; each end of a tree is a row, and what was dropped is none."""
    says = {}
    with played(tmp_path, VILLAGE, HOPS, lambda text, sample: says["policy"](text, sample)) as work:
        says["policy"] = Searcher(work)
        rows = trained(work, "grpo", changes=json.dumps({"method": "treeps_rag", "minibatch": 4, **GROWN}))
        nodes = work.store.read("nodes", work.places("nodes", stage="rollouts"))
        pruned = work.store.read("scores", work.places("scores", stage="pruned"))
    assert pruned["value"].sum() == 3
    ends = nodes.filter(pl.col("finish").is_not_null())
    assert rows.select("tree", "node").sort("tree", "node").equals(ends.select("tree", "node").sort("tree", "node"))
    assert rows["advantages"].list.eval(pl.element() != 0).list.any().any()


@pytest.mark.parametrize(
    ("environment", "changes", "said"),
    [
        pytest.param(
            VILLAGE, {"strategy": "spo_tree"}, "'spo_tree' is not known; use one of flat, treeps_rag", id="one"
        ),
        pytest.param(VILLAGE, {"allocation": "knapsack"}, "'knapsack' is not known; use one of even", id="shared out"),
        pytest.param(VILLAGE, {"strategy": "treeps_rag"}, "needs --threshold", id="no threshold"),
        pytest.param(VILLAGE, GROWN | {"strategy_params": {"branching": 2}}, "no parameter 'branching'", id="unknown"),
        pytest.param(PATH, GROWN, "has no search", id="no search"),
        pytest.param("", GROWN, "'treeps_rag' is not known", id="no environment"),
    ],
)
def test_what_cannot_be_sampled_is_refused_before_anything_is_asked(tmp_path, environment, changes, said):
    with played(tmp_path, environment or VILLAGE, HOPS, lambda text, sample: search("x")) as work:
        if not environment:
            work = replace(work, suite=replace(work.suite, environment=None))
        with pytest.raises(BadConfig, match=said):
            train_online(work, OnlineConfig("grpo", changes=json.dumps(changes)))
        assert (Script.last.asked, work.store.places("tasks")) == ([], [])
