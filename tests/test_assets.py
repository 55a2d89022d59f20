"""The graph: that it is whole, described and checked; what an asset tells the UI."""

from __future__ import annotations

import argparse
import io
import shutil
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
from rich.console import Console
from scripted_round import Pupil, changed, run, scripted

from assets import demo
from assets.definitions import ASSETS, defs
from assets.generate import tasks
from assets.partitions import add_partitions
from assets.resources import Workplace
from assets.train import dpo, evals, int_sft, sft, sft_evals
from pipeline import cli_progress
from pipeline.cli import STAGES
from pipeline.cli_options import Parser, add_config_options, read_config
from pipeline.credit import METHODS
from pipeline.judges import JUDGES
from pipeline.labels import LABELLERS
from pipeline.labels.given import GIVEN
from pipeline.report import Progress, Report
from pipeline.stages.work import Work
from pipeline.store.checks import CHECKS, Finding

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    pytest.mark.filterwarnings("ignore::dagster.PreviewWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

ROOT = Path(__file__).parent.parent
SUITE = """
name = "two"
description = "Two questions."
prompts = "instruct"
separator = "\\n"
max_tokens = 48
[[bands]]
name = "all"
source = "file"
path = "two.jsonl"
"""


BY_HAND = ("plan", "intervene", "scores", "prm-scores", "rationales", "build", "rl-samples")
BY_HAND += ("credit", "step-labels", "judge", "evals", "prm-evals")
"""Stages that no asset is called after: those of the second line have an asset a method, labeller, judge or policy."""


def test_the_graph_has_every_stage():
    keys = {key.to_user_string() for key in defs().resolve_asset_graph().get_all_asset_keys()}
    computed = {name for name in LABELLERS if name not in GIVEN}
    assert {f"credit/{name}" for name in METHODS} <= keys
    assert {f"step_labels/{name}" for name in computed} <= keys
    assert {f"judge/{name}" for name in JUDGES} <= keys
    assert {name.replace("-", "_") for name in STAGES if name not in BY_HAND} <= keys
    assert {"policies/online", "policies/online_round", "policies/prm"} <= keys
    for trained in ("dpo", "treg", "int"):
        assert {f"policies/{trained}", f"evals/{trained}"} <= keys


@pytest.mark.parametrize("asset", ASSETS, ids=lambda asset: asset.key.to_user_string())
def test_an_asset_says_what_it_is(asset: dg.AssetsDefinition):
    (spec,) = asset.specs
    assert spec.description
    assert spec.owners
    assert spec.kinds
    assert spec.group_name != "default"
    assert asset.partitions_def is not None
    if spec.key.path[0] not in ("policies", "release"):
        columns = spec.metadata["dagster/column_schema"].columns
        assert all(column.description for column in columns)
        assert any(check.blocking for check in asset.check_specs)


def materialise(
    folder: Path, suite: str, assets: Sequence[dg.AssetsDefinition] = (tasks,)
) -> dg.ExecuteInProcessResult:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with dg.DagsterInstance.ephemeral() as instance:
            return dg.materialize(
                list(assets),
                instance=instance,
                partition_key=add_partitions(instance, suite=suite, round="r0"),
                resources={"workplace": Workplace(store=str(folder / "store"))},
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
                raise_on_error=False,
            )


def test_an_asset_reports_numbers_checks_and_a_data_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BRANCHPOINT_SUITES", str(tmp_path))
    (tmp_path / "two.toml").write_text(SUITE)
    (tmp_path / "two.jsonl").write_text('{"question": "1 + 1?", "answer": 2}\n{"question": "2 + 2?", "answer": 4}\n')
    outcome = materialise(tmp_path, "two")
    assert outcome.success
    (done,) = outcome.asset_materializations_for_node("tasks")
    assert done.metadata["rows of tasks"].value == 2
    assert done.metadata["note"].value.startswith("there are no held_out tasks")
    assert done.metadata["dagster/partition_row_count"].value == 2
    assert done.tags["dagster/data_version"]
    assert {check.check_name for check in outcome.get_asset_check_evaluations()} == {
        "tasks_any_rows",
        "tasks_keys_unique",
        "tasks_splits_apart",
    }
    assert all(check.passed for check in outcome.get_asset_check_evaluations())


def test_a_method_without_rows_is_idle_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BRANCHPOINT_SUITES", str(tmp_path))
    (tmp_path / "two.toml").write_text(SUITE)
    (tmp_path / "two.jsonl").write_text('{"question": "1 + 1?", "answer": 2}\n')
    idle = (dpo, int_sft, sft, *evals[1:], sft_evals)
    outcome = materialise(tmp_path, "two", [tasks, *idle])
    assert outcome.success
    for asset in idle:
        (done,) = outcome.asset_materializations_for_node(asset.op.name)
        assert done.metadata["rows"].value == 0
    assert all(check.passed for check in outcome.get_asset_check_evaluations())


def test_bad_input_fails_the_run_with_our_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BRANCHPOINT_SUITES", str(tmp_path))
    (tmp_path / "two.toml").write_text(SUITE)
    (tmp_path / "two.jsonl").write_text('{"question": "1 + 1?"}\n')
    outcome = materialise(tmp_path, "two")
    assert not outcome.success
    failure = next(event for event in outcome.all_events if event.is_step_failure)
    assert "two.jsonl, row 1: no answer" in str(failure.step_failure_data.error)
    assert not list((tmp_path / "store").rglob("*.parquet"))


def test_progress_goes_to_the_log_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cli_progress, "EVERY_SECONDS", 0.0)
    context = SimpleNamespace(
        partition_key=dg.MultiPartitionKey({"suite": "chain_sum", "round": "r0"}),
        log=SimpleNamespace(info=(said := []).append),
    )
    work = Workplace(store=str(tmp_path)).open(context)
    work.on_progress(Progress("rollouts", "requests", 3, 8, 120, 1, 2.0, cached=0.5, cost=0.25))
    work.on_progress(Progress("rollouts", "trees", 1, 4, 120, 0, 3.0))
    requests = "rollouts: 3/8 requests (1 from the ledger)"
    assert said == [
        f"{requests}, 120 tokens, 60 a second, 50% of prompts cached, cost 0.25, 2 s",
        f"{requests}, 1/4 trees, 120 tokens, 40 a second, 50% of prompts cached, cost 0.25, 3 s",
    ]


@pytest.fixture
def failing_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Runs the demo on a file suite to its first failure; returns the exit code and what went to stderr."""
    monkeypatch.chdir(tmp_path)
    for name in ("suites", "store", "policies", "release"):
        monkeypatch.setenv(f"BRANCHPOINT_{name.upper()}", str(tmp_path if name == "suites" else tmp_path / name))
    monkeypatch.setattr(demo, "quiet_engines", lambda: None)
    shutil.copy(ROOT / "dagster.yaml", tmp_path)
    (tmp_path / "two.toml").write_text(SUITE)
    (tmp_path / "two.jsonl").write_text('{"question": "1 + 1?", "answer": 2}\n')

    def run(*arguments: str) -> tuple[int, str]:
        with warnings.catch_warnings():
            code = demo.main(["--suite", "two", *arguments])
        return code, capsys.readouterr().err

    return run


def test_demo_says_which_line_is_broken(failing_demo, tmp_path: Path):
    (tmp_path / "two.jsonl").write_text('{"question": "1 + 1?", "answer": 2}\n{"question": \n')
    code, said = failing_demo()
    assert code == 2
    assert said.startswith("branchpoint-demo: tasks: ")
    assert said.count("\n") == 1
    assert "two.jsonl" in said
    assert "; " in said
    assert "JSONDecodeError" not in said
    assert "pipeline.errors" not in said


def test_demo_says_where_it_cannot_write(failing_demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for place in (tmp_path / "two.toml", tmp_path / "two.toml" / "store"):
        monkeypatch.setenv("BRANCHPOINT_STORE", str(place))
        code, said = failing_demo()
        assert (code, said) == (
            2,
            f"branchpoint-demo: store {place} cannot be: {tmp_path / 'two.toml'} is not a folder; choose another store "
            "with --store or BRANCHPOINT_STORE\n",
        )
        monkeypatch.delenv("BRANCHPOINT_STORE")
        assert failing_demo("--store", str(place)) == (code, said)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--siute", "two"), "'--siute' is not understood; did you mean '--suite'? see branchpoint-demo --help"),
        (("--suite",), "argument --suite: expected one argument; see branchpoint-demo --help"),
        (("--suite", "tow"), "suite 'tow' does not exist; did you mean 'two'? choose one of chain_sum, calculator"),
        (("--policy", "none"), "policy 'none' is neither"),
    ],
)
def test_demo_refuses_in_one_line(failing_demo, tmp_path: Path, arguments: tuple[str, ...], message: str):
    code, said = failing_demo(*arguments)
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith(f"branchpoint-demo: {message}")
    assert not (tmp_path / "store").exists()


def test_demo_keeps_the_traceback_of_a_bug(failing_demo, monkeypatch: pytest.MonkeyPatch):
    def write_tasks(work):
        try:
            {}["reward"]
        except KeyError as error:
            raise RuntimeError("no such column") from error

    monkeypatch.setattr("assets.generate.write_tasks", write_tasks)
    code, said = failing_demo()
    assert code == 1
    assert said.startswith("branchpoint-demo: tasks: KeyError: 'reward'\n")
    assert "RuntimeError: no such column" in said
    assert "in write_tasks" in said


def test_demo_says_which_check_failed(failing_demo, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(CHECKS["tasks"], "any_rows", lambda *_: Finding(False, "no rows\nat all"))
    assert failing_demo() == (2, "branchpoint-demo: check tasks_any_rows of tasks: no rows at all\n")


def test_demo_stops_where_it_is_interrupted(failing_demo, monkeypatch: pytest.MonkeyPatch):
    def write_tasks(work):
        raise KeyboardInterrupt

    monkeypatch.setattr("assets.generate.write_tasks", write_tasks)
    code, said = failing_demo()
    assert code == 130
    assert said == "branchpoint-demo: stopped; what is recorded is kept, run again to go on\n"


def last_screen(work: Work) -> str:
    said = io.StringIO()
    console = Console(file=said, width=30)
    options = argparse.Namespace(suite=work.suite.name, round=work.round, policy="tiny")
    demo._last_screen(options, work.settings, console, demo.Teller(console), checks=1, seconds=1.0)
    return said.getvalue()


def test_demo_says_what_it_has_no_figures_of(tmp_path: Path):
    """One line in place of a table without rows."""
    with scripted(tmp_path, Pupil()) as work:
        run(work)
        said = last_screen(work)
        assert "on held-out tasks, with 95 % intervals" in said
        assert "against the exact oracle" in said
        assert "…" not in said, "no figure is cut off"
        alone = changed(work, sizes=("train = 3, held_out = 2", "train = 3"))
        shutil.rmtree(work.settings.store / "evals")
        run(alone)
        evals = alone.places("evals", stage="agreement")
        unknown = alone.store.read("evals", evals).with_columns(value=None, low=None, high=None)
        alone.store.write("evals", unknown, evals[0], inputs={})
        said = last_screen(alone)
    assert "there are no held_out tasks, so no policy can be evaluated; to have some, in band sums give" in said
    assert "no task is a sum, so there is no exact oracle" in said
    assert "interval" not in said


def test_demo_says_which_options_find_its_shards_current(tmp_path: Path):
    """What the line spells is what the demo asked for."""
    usual = argparse.Namespace(suite="chain_sum", round="r0", policy="tiny")
    said = demo.smaller_draws(usual)
    assert "each with" not in said
    spelt = dict(part.split(" ", 1) for part in said.split("current: ")[1].split(", "))
    asked = {name.removesuffix("__genprm"): given for name, given in demo.SETTINGS.items()}
    assert spelt.keys() == asked.keys() & STAGES.keys() > {"judge"}
    for name, options in spelt.items():
        config = getattr(import_module(STAGES[name].module), STAGES[name].config)
        parser = Parser()
        add_config_options(parser, config)
        assert read_config(parser.parse_args(options.split()), config) == config(**asked[name])
    other = argparse.Namespace(suite="mine", round="r0", policy="p")
    assert demo.smaller_draws(other) == f"{said}; each with --suite mine --policy p"


def test_a_note_is_told_once():
    said = io.StringIO()
    teller = demo.Teller(Console(file=said, width=200))
    for stage in ("tasks", "evals"):
        teller.report(Report(stage, "two", "r0", rows={stage: 1234}, numbers={"share": 1.0}, notes=("none held out",)))
    assert said.getvalue().count("none held out") == 1
    assert "tasks 1,234  share 1.000" in said.getvalue()
