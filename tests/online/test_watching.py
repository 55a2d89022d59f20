"""Recipes, schedules, replay, choice of shards and alarms: the pure parts around the rounds."""

from __future__ import annotations

import json

import polars as pl
import pytest

from pipeline.credit import METHODS
from pipeline.errors import BadConfig
from pipeline.generation.budget.allotment import allotted_samples
from pipeline.stages.credit import read_params
from trainers.online.recipe import load_recipe, recipes, scheduled
from trainers.online.replay import chosen_rows
from trainers.online.round_work import chosen_shards
from trainers.online.watch import alarms, round_names

LINEAR = {"kind": "linear", "start": 10, "end": 0, "rounds": 4}


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_can_be_read_and_its_parameters_are_the_methods(name):
    recipe = load_recipe(name)
    for number in (0, 3, 1000):
        if recipe.rows == "method":
            read_params(recipe.method, recipe.params_at(number))
    assert recipe.method in METHODS


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param('{"gruop": 4}', "has no field 'gruop'; did you mean 'group'\\?$", id="a misspelt field"),
        pytest.param('{"zzz": 4}', "choose of agreement, allocation, ", id="no such field"),
        pytest.param('{"group": "four"}', "group", id="no number"),
        pytest.param('{"epochs": true}', "epochs", id="a truth is no number"),
        pytest.param('{"loss": "sum"}', "loss", id="no such loss"),
        pytest.param('{"normalise": "constant"}', "constant", id="a constant that is not given"),
        pytest.param("[", "JSON", id="no JSON"),
        pytest.param(
            '{"schedule": {"alpha": {"kind": "up", "start": 0, "end": 1, "rounds": 2}}}', "schedule", id="kind"
        ),
        pytest.param(
            '{"schedule": {"alpha": {"kind": "exp", "start": 1, "end": 0, "rounds": 2}}}', "under exp", id="exp to 0"
        ),
        pytest.param('{"schedule": {"alpha": 5}}', "schedule", id="a schedule that is a number"),
        pytest.param('{"weight_decay": -1.0}', "weight_decay", id="negative decay"),
        pytest.param('{"tau": -1.0}', "tau", id="OPMD would divide by 0"),
        pytest.param('{"dual_clip": 1.1}', "dual_clip", id="dual clip within the clip"),
        pytest.param('{"method": "pure", "prm": "judge"}', "labeller", id="a PRM whose labels nobody reads"),
        pytest.param('{"method": "pure", "labeller": "prm"}', "labeller", id="no PRM"),
        pytest.param('{"method": "brpo"}', "budget, which no round makes", id="scores of a file"),
        pytest.param('{"method": "malt"}', "answers of the verifier", id="trees of roles"),
        pytest.param('{"method": "pure", "labeller": "human"}', "labeller", id="people in the loop"),
        pytest.param('{"prm": "judge", "prm_every": 2}', "prm_every", id="a given PRM that is to be trained"),
        pytest.param('{"prm_every": 2}', "rule", id="labels of trees that do not grow"),
        pytest.param('{"prm_training": {"stesp": 2}}', "stesp", id="no such setting of a PRM"),
        pytest.param('{"critic_training": {"tau": 0.0}}', "tau", id="a critic that cannot be"),
        pytest.param('{"start": {"shards": 1, "training": {"steps": 0}}}', "steps", id="a warm-up without a step"),
        pytest.param('{"start": {"group": "four"}}', "group", id="a warm-up of no number"),
        pytest.param('{"rows": "retry_rows", "params": {"beta": 1}}', "alpha", id="no such parameter of retries"),
        pytest.param('{"rows": "retry_rows", "params": {"alpha": "3"}}', "alpha", id="a parameter that is no number"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(changes, said):
    with pytest.raises(BadConfig, match=said):
        load_recipe("grpo", changes=changes)
    with pytest.raises(BadConfig, match="grpo"):
        load_recipe("nothing")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "recipe.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadConfig, match="cannot be read"):
        load_recipe(str(tmp_path / "recipe.toml"))


def test_a_schedule_moves_from_its_start_to_its_end_and_stays_there():
    assert [scheduled(LINEAR, number) for number in (0, 1, 2, 4, 9)] == [10, 8, 5, 0, 0]
    assert scheduled({**LINEAR, "kind": "exp", "start": 100.0, "end": 25.0}, 2) == pytest.approx(50)
    assert scheduled({**LINEAR, "kind": "cosine", "start": 1.0, "end": 0.0}, 2) == pytest.approx(0.5)
    recipe = load_recipe("grpo", changes=json.dumps({"method": "trust_grpo", "schedule": {"step": LINEAR}}))
    assert read_params("trust_grpo", recipe.params_at(1)).step == 8


def rows(*names: str) -> pl.DataFrame:
    return pl.DataFrame({"task": [name[0] for name in names], "row": list(names)})


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        pytest.param({}, [(2, "a5"), (2, "b6")], id="its own round alone"),
        pytest.param({"age": 1}, [(2, "a5"), (2, "b6")], id="used up by the round before"),
        pytest.param({"age": 1, "uses": 2}, [(1, "a3"), (1, "b4"), (2, "a5"), (2, "b6")], id="none is too old"),
        pytest.param({"age": 2, "uses": 3, "per_task": 1}, [(2, "a5"), (2, "b6")], id="the newest first"),
        pytest.param(
            {"age": 2, "uses": 1, "per_task": 2}, [(2, "a5"), (2, "b6")], id="what was used is not taken again"
        ),
    ],
)
def test_what_an_update_takes_of_earlier_rounds(options, taken):
    rounds = [rows("a1", "b2"), rows("a3", "b4"), rows("a5", "b6")]
    assert chosen_rows(rounds, **options).rows() == taken


@pytest.mark.parametrize(
    ("uses", "rounds"), [pytest.param(1, {0, 1}, id="used once: at random"), pytest.param(3, {1}, id="by priority")]
)
def test_which_rows_of_a_task_are_taken(uses, rounds):
    given = [rows("a1", "a2"), rows("a3")]
    drawn = [chosen_rows(given, age=1, uses=uses, per_task=1, seed=seed)["round"].to_list() for seed in range(20)]
    assert all(len(one) == 1 for one in drawn)
    assert {one[0] for one in drawn} == rounds


def test_rows_that_were_not_taken_wait_until_they_are_too_old():
    rounds = [rows("a1", "a2", "a3"), rows(), rows(), rows()]
    taken = [chosen_rows(rounds[:n], age=2, uses=1, per_task=1)["row"].to_list() for n in (1, 2, 3, 4)]
    assert sorted(row for several in taken[:3] for row in several) == ["a1", "a2", "a3"]
    assert taken[3] == []


def test_shards_are_gone_through_before_one_comes_again():
    names = [f"train-{number:03d}" for number in range(5)]
    drawn = [chosen_shards(names, count=2, round=number, seed=7) for number in range(4)]
    assert all(len({*drawn[one], *drawn[one + 1]}) == 4 for one in (0, 2))
    assert set(drawn[:2]) != set(drawn[2:])
    assert chosen_shards(names, count=0, round=3, seed=7) == tuple(names)
    assert chosen_shards(names, count=2, round=0, seed=1) != drawn[0]


@pytest.mark.parametrize(
    ("first", "names"),
    [
        pytest.param("r0", ["r0", "r1", "r2"], id="from 0"),
        pytest.param("rloo-s1-9", ["rloo-s1-9", "rloo-s1-10", "rloo-s1-11"], id="counted on"),
        pytest.param("pilot", ["pilot", "pilot-1", "pilot-2"], id="no number"),
    ],
)
def test_names_of_rounds(first, names):
    assert round_names(first, 3) == names


CALM = {"entropy": 1.0, "answer_tokens": 40.0, "reward": 0.5, "pass@1": 0.5, "step_score": 0.5}


@pytest.mark.parametrize(
    ("last", "said"),
    [
        pytest.param({}, [], id="calm"),
        pytest.param({"entropy": 0.2}, ["entropy"], id="entropy"),
        pytest.param({"answer_tokens": 90.0}, ["tokens"], id="longer"),
        pytest.param({"answer_tokens": 15.0}, ["tokens"], id="shorter"),
        pytest.param({"step_score": 0.7, "pass@1": 0.4}, ["hacked"], id="score up, outcome down"),
        pytest.param({"step_score": 0.7, "pass@1": 0.6}, [], id="both up"),
        pytest.param({"step_score": None}, [], id="no score"),
        pytest.param({"entropy": 0.2, "pass@1": 0.6}, [], id="entropy down, outcome up"),
        pytest.param({"entropy": None}, [], id="a round without an update"),
        pytest.param({"step_score": 0.7, "pass@1": None, "reward": 0.1}, [], id="not evaluated, of another shard"),
    ],
)
def test_alarms(last, said):
    found = alarms([CALM, CALM, CALM, {**CALM, **last}])
    assert len(found) == len(said)
    assert all(word in sentence for word, sentence in zip(said, found, strict=True))


def test_a_first_round_without_an_update_mutes_no_alarm():
    assert "entropy" in alarms([{**CALM, "entropy": None}, CALM, {**CALM, "entropy": 0.2}])[0]


def test_samples_go_to_tasks_that_teach_and_are_as_many_in_all():
    rewards = {"hard": [0.0] * 8, "seldom": [1.0] + [0.0] * 7, "easy": [1.0] * 8}
    seen = pl.DataFrame(
        [(task, value) for task, said in rewards.items() for value in said], schema=["task", "reward"], orient="row"
    )
    found = allotted_samples(["hard", "seldom", "easy", "new"], [seen, seen.clear()], group=8)
    assert sum(found.values()) == 32
    assert found["seldom"] > found["hard"]
    assert found["seldom"] > found["easy"]
