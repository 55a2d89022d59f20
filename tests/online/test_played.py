"""Online RL on environments: a puzzle with GiGPO, a game for two with MARS."""

from __future__ import annotations

import json

import polars as pl
import pytest
from environments.played_round import SEEDS, played

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


def trained(work: Work, recipe: str) -> pl.DataFrame:
    """Rows of a round, once its policy has been made."""
    report = train_online(work, OnlineConfig(recipe, rounds=1, changes=CHANGES))
    assert report.fresh == 1
    assert 0 <= report.numbers["reward"] <= 1
    assert 0 <= report.numbers["score"] <= 1
    return work.store.read("rl_samples", work.places("rl_samples", stage=recipe))


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
