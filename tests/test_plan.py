"""Plans: what a pilot of some tasks says of a suite, and what came of it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline import cli
from pipeline.errors import BadConfig
from pipeline.plan import FIGURES
from pipeline.plan.forecast import Drawn, expected_prefill, expected_tasks, expected_total, pick
from pipeline.plan.lines import Line, cost_lines, read_plan
from pipeline.plan.pace import Pace
from pipeline.report import Progress
from pipeline.stages.episodes import EpisodeConfig, write_episodes
from pipeline.stages.pairs import write_pairs
from pipeline.stages.patches import write_patches
from pipeline.stages.plan import PlanConfig, write_plan
from pipeline.stages.rollouts import RolloutConfig, write_rollouts
from pipeline.stages.step_labels import write_step_labels
from pipeline.stages.tasks import write_tasks
from pipeline.stages.trees import write_trees
from pipeline.stages.work import Work
from pipeline.statistics import MeanInterval
from schemas import TABLES
from tests.environments.played_round import SUMS, Script, played
from tests.scripted_round import Pupil, changed, read, scripted

NA = np.nan


def close(found: MeanInterval) -> object:
    return pytest.approx(tuple(NA if end is None else end for end in found), nan_ok=True, abs=0.01)


@pytest.mark.parametrize(
    ("sizes", "most", "places"),
    [
        pytest.param((10,), 3, [[0, 3, 6]], id="evenly over a band"),
        pytest.param((10, 4), 4, [[0, 5], [0, 2]], id="bands in turn"),
        pytest.param((1, 0, 9), 4, [[0], [], [0, 3, 6]], id="a band that is small, one that is empty"),
        pytest.param((5, 5, 5, 5), 2, [[0], [], [0], []], id="fewer than bands: evenly over them"),
        pytest.param((2, 1), 8, [[0, 1], [0]], id="more than there are: all"),
    ],
)
def test_pick(sizes, most, places):
    assert [one.tolist() for one in pick(np.array(sizes), most)] == places


@pytest.mark.parametrize(
    ("value", "band", "sizes", "total"),
    [
        pytest.param((7, 7, 7), (0, 0, 0), (10,), (70, 70, 70), id="all alike: exact"),
        pytest.param((1, 3), (0, 0), (10,), (20, 4, 20 + 12.706 * 80**0.5), id="not below what was seen"),
        pytest.param(
            (10, 11, 12, 13),
            (0,) * 4,
            (100,),
            (1150, 1150 - 3.1824 * 4000**0.5, 1150 + 3.1824 * 4000**0.5),
            id="Student's",
        ),
        pytest.param((1, 3), (0, 0), (2,), (4, 4, 4), id="the whole suite: exact"),
        pytest.param((5,), (0,), (4,), (20, NA, NA), id="one task has no spread"),
        pytest.param((1, NA), (0, 0), (10,), (NA, NA, NA), id="one is not known"),
        pytest.param((1, 3, 5, 7), (0, 0, 1, 1), (2, 4), (28, 16, 28 + 12.706 * 8**0.5), id="a band that is whole"),
        pytest.param((1, 5), (0, 1), (2, 4), (22, 6, 22 + 12.706 * (320 / 3) ** 0.5), id="one a band: spread over all"),
        pytest.param((1, 5), (0, 2), (3, 3, 4), (30, 6, 30 + 12.706 * 320**0.5), id="a band without any"),
    ],
)
def test_expected_total(value, band, sizes, total):
    found = expected_total(np.array(value, np.float64), Drawn(np.array(band), np.array(sizes)))
    assert close(found) == total


@pytest.mark.parametrize(
    ("holds", "tasks", "total"),
    [
        pytest.param((1, 1, 1, 1), 8, (8, 4.08, 8), id="all: Wilson's, though none differs"),
        pytest.param((0, 0, 0, 0), 8, (0, 0, 3.92), id="none"),
        pytest.param((1, 0), 2, (1, 1, 1), id="the whole suite: exact"),
        pytest.param((1,), 5, (5, NA, NA), id="one task"),
        pytest.param((1, 0, 1, 0), 5, (2.5, 2, 3), id="within what is left"),
    ],
)
def test_expected_tasks(holds, tasks, total):
    drawn = Drawn(np.zeros(len(holds), int), np.array([tasks]))
    assert close(expected_tasks(np.array(holds, bool), drawn)) == total


def test_a_common_beginning_is_computed_once():
    drawn = Drawn(np.zeros(2, int), np.array([5]))
    assert expected_prefill(np.array([10.0, 10.0]), 14, drawn) == MeanInterval(26, 26, 26)  # 6 in common, 4 each
    assert expected_prefill(np.array([10.0]), 10, Drawn(np.zeros(1, int), np.array([5]))).mean == 50


def test_pace_leaves_the_opening_out():
    told: list[Progress] = []
    pace = Pace(told.append)
    for what, tokens, seconds in (("requests", 0, 1), ("requests", 10, 33), ("trees", 10, 34), ("requests", 60, 37)):
        pace(Progress("rollouts", what, 1, 1, tokens, 0, seconds))
    assert len(told) == 4
    assert pace.rate("rollouts", shortest=3) == 60 / 7  # 30 seconds went by before anything was asked
    assert pace.rate("rollouts", shortest=None) == 15
    assert pace.rate("trees", shortest=1) is None


@pytest.fixture
def pupil() -> Pupil:
    return Pupil()


@pytest.fixture
def work(tmp_path: Path, pupil: Pupil, monkeypatch) -> Work:
    monkeypatch.setenv("BRANCHPOINT_SUITES", str(tmp_path))
    with scripted(tmp_path, pupil) as made:
        write_tasks(made)
        yield made


BOTH = PlanConfig(group=4, rule="steps", price_per_million_decoded=2.0, price_per_million_prompt=0.5)


def lines(work: Work) -> dict[str, Line]:
    plan = read_plan(work.store, suite="three", round="r0")
    return {line.figure: line for line in cost_lines(work.store, suite="three", round="r0", plan=plan)}


def make_round(work: Work) -> None:
    write_rollouts(work, RolloutConfig(group=4))
    write_trees(work)
    write_step_labels(work)
    write_pairs(work)


def test_a_pilot_of_all_tasks_is_the_round(work: Work, pupil: Pupil):
    report = write_plan(work, BOTH)  # 8 of 3
    assert report.numbers["pilot"] == 3
    paid = len(pupil.prompts)
    make_round(work)
    assert len(pupil.prompts) == paid == read(work, "requests").height  # nothing is paid twice
    assert not read(work, "requests")["reused"].any()  # and the round's own rows book it
    found = lines(work)
    unlike = {"computed_tokens", "computed_share"}  # this engine caches nothing
    for figure, line in found.items():
        timed = figure.startswith("seconds")
        if line.plan is not None and line.actual is not None and figure not in unlike and not timed:
            assert line.actual == pytest.approx(line.plan), figure
    assert (found["requests"].plan, found["judged_leaves"].plan, found["pairs"].plan) == (72, 84, 3)
    prompt, decoded = (read(work, "requests")[f"{name}_tokens"].sum() for name in ("prompt", "decoded"))
    assert (found["prompt_tokens"].actual, found["decoded_tokens"].actual) == (prompt, decoded)
    assert found["cost"].actual == pytest.approx((0.5 * prompt + 2 * decoded) / 1e6)
    assert found["cost_per_row_of_pairs"].actual == pytest.approx((0.5 * prompt + 2 * decoded) / 3e6)
    assert found["unique_tokens"].plan < decoded < prompt
    assert found["computed_tokens"].plan < found["computed_tokens"].actual == prompt
    assert found["seconds"].plan > 0
    assert found["seconds"].actual > 0
    assert found["seconds_per_row_of_pairs"].actual == pytest.approx(found["seconds"].actual / 3)


def test_hours_of_the_engine_cost_what_the_clock_says(work: Work):
    write_plan(work, PlanConfig(group=4, price_per_hour=3600.0))
    write_rollouts(work, RolloutConfig(group=4))
    found = lines(work)
    assert found["cost"].plan == pytest.approx(found["seconds"].plan)
    assert found["cost"].actual == pytest.approx(found["seconds"].actual)
    with work.store.ledger() as ledger:
        assert found["seconds"].actual == ledger.seconds("three/r0/rollouts") > 0


def test_a_run_ends_at_a_cost_and_goes_on_from_there(work: Work, pupil: Pupil):
    priced = RolloutConfig(group=16, most_cost=1e-9, price_per_million_decoded=2.0)
    report = write_rollouts(work, priced)
    assert report.rows["nodes"] == 0
    assert report.numbers["cost"] > 0
    assert report.notes[0].startswith("the cap of 1e-09 in money is reached: what was asked is in the ledger")
    assert 0 < len(pupil.prompts) < 48
    write_rollouts(work, replace(priced, most_cost=0.0))
    assert len(pupil.prompts) == 48 == read(work, "requests").height
    with pytest.raises(BadConfig, match="a run shall end at a cost of 1, and nothing has a price"):
        write_rollouts(work, RolloutConfig(most_cost=1.0))
    with pytest.raises(BadConfig, match=r"^most_seconds is -1\.0; give at least 0$"):
        replace(priced, most_seconds=-1.0)


def test_a_plan_counts_up_and_writes_no_more_than_itself(work: Work, pupil: Pupil):
    report = write_plan(work, PlanConfig(pilot=2, group=4))
    assert report.rows == {"evals": len(FIGURES)}  # with the number of tasks, without request_seconds
    assert {place.stage for table in TABLES for place in work.store.places(table)} == {"tasks", "plan"}
    assert len(pupil.prompts) == 8
    found = lines(work)
    assert found["requests"] == Line("requests", 12, 12, 12, None)
    assert found["mixed_tasks"][1:4] == (3, 2, 3)
    assert found["decoded_tokens"].low <= found["decoded_tokens"].plan <= found["decoded_tokens"].high
    assert "cost" not in found
    make_round(work)
    assert lines(work)["requests"].actual == 12  # of rollouts alone, since no more was planned
    rows = read(work, "requests")
    assert lines(work)["decoded_tokens_per_row_of_pairs"].actual == rows["decoded_tokens"].sum() / 3  # of all stages


def test_a_tree_from_the_prompt_is_planned(work: Work):
    config = PlanConfig(strategy="spo_tree", params='{"branching": [2, 2], "segment": 6}')
    write_plan(work, config)
    write_rollouts(work, RolloutConfig("spo_tree", params=config.params))
    found = lines(work)
    assert found["requests"].plan == found["requests"].actual == read(work, "requests").height
    assert found["unique_tokens"].plan < found["decoded_tokens"].plan
    assert found["step_labels"].actual is None  # the stage has not run


def test_a_stage_that_asks_nothing_takes_no_time(work: Work):
    tree = PlanConfig(strategy="spo_tree", params='{"branching": [2, 2], "segment": 6}', rule="steps")
    write_plan(work, tree)  # no whole attempt from the prompt, so nothing to branch from
    assert lines(work)["seconds"].plan > 0


def test_again_it_is_current_and_out_of_the_ledger_it_has_no_pace(work: Work, pupil: Pupil):
    write_plan(work, BOTH)
    paid = len(pupil.prompts)
    assert write_plan(work, BOTH).fresh == 0
    report = write_plan(work, replace(BOTH, continuations=3))
    assert (report.fresh, len(pupil.prompts)) == (1, paid)
    assert "seconds" not in report.numbers
    labels = lines(work)["step_labels"].plan
    make_round(work)
    made = read(work, "step_labels").filter((pl.col("k") >= 3) & (pl.col("node") > 0))
    assert labels == made.height == lines(work)["step_labels"].actual
    assert labels < read(work, "step_labels").height


def calculates(text: str, sample: int) -> str:
    """Calls the calculator first, but every other sample, which guesses."""
    if sample % 2:
        return "#### 7"
    answered = re.findall(r"<tool_response>\n(-?\d+)\n", text)
    expression = re.search(r"problem: (.*?) =", text)[1]
    call = {"name": "calculator", "arguments": {"expression": expression}}
    return f"#### {answered[-1]}" if answered else f"<tool_call>{json.dumps(call)}</tool_call>"


@pytest.fixture
def tools(tmp_path: Path) -> Work:
    with played(tmp_path, 'name = "tools"\ntools = ["calculator"]\nschemas = false', SUMS, calculates) as made:
        write_tasks(made)
        yield made


def test_episodes_are_planned_where_a_suite_has_an_environment(tools: Work):
    write_plan(tools, PlanConfig(group=4, price_per_million_decoded=2.0))  # 8 of 2
    paid = len(Script.last.asked)
    assert {place.stage for table in TABLES for place in tools.store.places(table)} == {"tasks", "plan"}
    write_episodes(tools, EpisodeConfig(group=4))
    write_step_labels(tools)
    write_pairs(tools)
    assert len(Script.last.asked) == paid == 12  # nothing is paid twice
    plan = read_plan(tools.store, suite="played", round="r0")
    found = {line.figure: line for line in cost_lines(tools.store, suite="played", round="r0", plan=plan)}
    for figure in ("requests", "prompt_tokens", "decoded_tokens", "cost", "judged_leaves", "step_labels", "pairs"):
        assert found[figure].plan == pytest.approx(found[figure].actual)
        assert found[figure].plan > 0
    assert 0 < found["computed_tokens"].plan < found["prompt_tokens"].plan
    assert found["seconds"].plan > 0
    assert (found["requests"].plan, found["mixed_tasks"].plan) == (12, 2)


def test_a_plan_of_episodes_takes_their_parameters(tools: Work):
    write_plan(tools, PlanConfig(group=2, params='{"most_turns": 1}'))
    plan = read_plan(tools.store, suite="played", round="r0")
    assert plan.figures["requests"][0] == 4
    write_plan(tools, PlanConfig(group=2, params='{"player": "recite"}'))
    plan = read_plan(tools.store, suite="played", round="r0")
    assert [plan.figures[name][0] for name in ("requests", "computed_tokens", "seconds")] == [0, 0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "spo_tree"}, "suite played is played in an environment; leave --strategy and --rule out"),
        ({"rule": "steps"}, "suite played is played in an environment; leave --strategy and --rule out"),
        ({"params": '{"segment": 3}'}, "episodes has no parameter 'segment'; it has "),
        ({"params": '{"baseline": "r0"}'}, "episodes with a baseline cannot be planned; plan with most_turns"),
    ],
)
def test_a_plan_of_episodes_refuses(tools: Work, options, message):
    with pytest.raises(BadConfig, match=f"^{re.escape(message)}"):
        write_plan(tools, PlanConfig(group=2, **options))
    assert not Script.last.asked


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "flt"}, "strategy 'flt' does not exist; choose one of flat, "),
        ({"rule": "flat"}, "strategy 'flat' does not exist; choose one of "),
        ({"params": '{"segment": 3}'}, "strategy flat has no parameter 'segment'; it has group"),
        ({"pilot": 0}, "pilot is 0; give at least 1"),
        ({"price_per_million_decoded": -1.0}, "price_per_million_decoded is -1.0; give at least 0"),
    ],
)
def test_a_plan_refuses(work: Work, options, message):
    with pytest.raises(BadConfig, match=f"^{re.escape(message)}"):
        write_plan(work, PlanConfig(group=2, **options))
    assert not work.store.places("evals")


def test_a_suite_without_training_tasks_has_no_plan(work: Work):
    work = changed(work, sizes=("train = 3, ", ""), seeds=("train = 77, ", ""))
    write_tasks(work)
    with pytest.raises(BadConfig, match="suite three has no train tasks"):
        write_plan(work)


def ask(work: Work, capsys, *arguments: str) -> tuple[int, str, str]:
    code = cli.main([*arguments, "--store", str(work.settings.store)])
    said = capsys.readouterr()
    return code, said.out, said.err


PLAN = ("plan", "--suite", "three", "--engine", "scripted", "--group", "4", "--quiet")


def test_the_commands(work: Work, capsys):
    code, out, _ = ask(work, capsys, *PLAN, "--rule", "steps", "--pilot", "2", "--json")
    rows = {row["figure"]: row for row in map(json.loads, out.splitlines())}
    assert code == 0
    expected = {"suite": "three", "round": "r0", "pilot": 2, "plan": 72, "low": 72, "high": 72, "actual": None}
    assert rows["requests"] == expected | {"figure": "requests"}
    make_round(work)
    code, out, _ = ask(work, capsys, "report", "cost")
    said = out.splitlines()
    assert said[0] == "cost of suite three, round r0; planned by flat and steps from a pilot of 2 of 3 tasks"
    assert next(line.split() for line in said if "requests " in line)[:6] == ["requests", "72", "72", "to", "72", "72"]
    assert any(line.split()[:2] == ["decoded_tokens_per_row_of_pairs", "272"] for line in said)


def test_the_report_without_a_plan(work: Work, capsys):
    assert ask(work, capsys, "report", "cost")[2].startswith("branchpoint: the store has no rounds; run")
    make_round(work)
    write_patches(work)
    code, out, _ = ask(work, capsys, "report", "cost", "--suite", "three", "--json")
    rows = {row["figure"]: row for row in map(json.loads, out.splitlines())}
    assert (code, rows["requests"]["plan"], rows["requests"]["actual"]) == (0, None, 72)
    assert rows["patches"]["actual"] == 0
    assert rows["seconds"]["actual"] > 0
    assert "no plan" in ask(work, capsys, "report", "cost")[1].splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--round", "r1"), "round 'r1' does not exist; did you mean 'r0'? choose one of r0"),
        (("--suite", "thre"), "suite 'thre' does not exist; did you mean 'three'? choose one of three"),
        (("--picture", "a.png"), "a report of cost has no picture; leave --picture out"),
    ],
)
def test_the_report_refuses(work: Work, capsys, arguments, message):
    write_plan(work, PlanConfig(group=1, pilot=1))
    assert ask(work, capsys, "report", "cost", *arguments) == (2, "", f"branchpoint: {message}\n")


def test_of_several_rounds_one_is_named(work: Work, capsys):
    for name in ("r0", "r1"):
        write_plan(replace(work, round=name), PlanConfig(group=1, pilot=1))
    said = "any of these may be meant: three r0, three r1; name one with --suite and --round"
    assert ask(work, capsys, "report", "cost") == (2, "", f"branchpoint: {said}\n")
    assert ask(work, capsys, "report", "cost", "--round", "r1")[0] == 0
