"""Suites that are played: their environment in the suite's file, and tasks that are made of seeds."""

from __future__ import annotations

import json

import pytest
from environments.played_round import SEEDS, SUITE, SUMS

from pipeline.environments.games import Options as GameOptions
from pipeline.errors import BadConfig
from pipeline.tasks.suites import load_suite, suite_tasks


def written(folder, environment: str, bands: str = SEEDS):
    (folder / "played.toml").write_text(f"{SUITE}\n{environment}\n{bands}")
    return load_suite("played", folder=folder)


def test_an_environment_has_its_own_options(tmp_path):
    suite = written(tmp_path, '[environment]\nname = "open_spiel"\ngame = "kuhn_poker"\nvalid_move = 0')
    assert suite.environment.options == GameOptions("kuhn_poker", valid_move=0)
    assert written(tmp_path, "").environment is None


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ('[environment]\nname = "none"', "environment 'none' does not exist; choose one of tools, open_spiel"),
        ("environment = 3", "environment None does not exist"),
        ('[environment]\nname = "open_spiel"\ngame = "go"\nsize = 9', "suite played, environment: unknown key 'size'"),
        ('[environment]\nname = "open_spiel"', "suite played, environment has no game; add what is missing"),
        ('[environment]\nname = "gymnasium"\nid = "x"\nseconds = 0', "full or seconds is not above 0"),
    ],
)
def test_refusals(tmp_path, environment, message):
    with pytest.raises(BadConfig, match=message):
        written(tmp_path, environment)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ('[environment]\nname = "tools"\ntools = ["none"]', "tool 'none' does not exist"),
        (
            '[environment]\nname = "tools"\ntools = ["calculator"]\noptions = { calculator = { digits = 3 } }',
            "tool calculator has no option 'digits'; it has none",
        ),
    ],
)
def test_refusals_once_it_is_opened(tmp_path, environment, message):
    suite = written(tmp_path, environment, SUMS)
    with pytest.raises(BadConfig, match=message):
        suite.environment.open()


def test_tasks_of_seeds(tmp_path):
    tasks = suite_tasks(written(tmp_path, ""))
    rows = tasks.select("split", "question", "verifier", "info").rows()
    assert rows[0] == ("train", "Play. (number 10)", "environment", json.dumps({"seed": 10}))
    assert [row[0] for row in rows] == ["train"] * 3 + ["held_out"]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ("sizes = { train = 5, held_out = 5 }\nseeds = { train = 1, held_out = 5 }", "two splits share seeds"),
        ("sizes = { train = 5 }\nseeds = { }", "train has a size and no seed"),
        ("sizes = { test = 5 }\nseeds = { test = 1 }", "name a split 'test'"),
    ],
)
def test_seeds_that_cannot_be(tmp_path, sizes, message):
    with pytest.raises(BadConfig, match=message):
        written(tmp_path, "", f'[[bands]]\nname = "b"\nsource = "seeds"\nquestion = "Play."\n{sizes}')
