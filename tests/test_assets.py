"""The graph: that it is whole, described and checked; what an asset tells the UI."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import pytest

from assets import demo
from assets.definitions import ASSETS, defs
from assets.generate import tasks
from assets.partitions import add_partitions
from assets.resources import Workplace, every_so_often
from assets.train import dpo, evals, int_sft
from pipeline.credit import METHODS
from pipeline.labels import LABELLERS
from pipeline.report import Progress
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


def test_the_graph_has_every_stage():
    keys = {key.to_user_string() for key in defs().resolve_asset_graph().get_all_asset_keys()}
    generated = {"tasks", "rollouts", "trees", "retries", "interventions", "verdicts"}
    annotated = {*(f"credit/{m}" for m in METHODS), *(f"step_labels/{name}" for name in LABELLERS), "agreement"}
    trained = {"pairs", "patches", "policies/dpo", "policies/int", "evals/policy", "evals/dpo", "evals/int", "release"}
    assert keys == generated | annotated | trained


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
    assert done.metadata["tasks"].value == 2
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
    outcome = materialise(tmp_path, "two", [tasks, dpo, int_sft, *evals[1:]])
    assert outcome.success
    for asset in (dpo, int_sft, *evals[1:]):
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


def test_progress_is_a_line_now_and_then():
    said: list[str] = []
    on_progress = every_so_often(said.append, seconds=0.0)
    on_progress(Progress("rollouts", "requests", 3, 8, 120, 1, 2.0))
    assert said == ["rollouts: 3 of 8 requests, 120 tokens, 1 found again"]


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

    def run() -> tuple[int, str]:
        with warnings.catch_warnings():
            code = demo.main(["--suite", "two"])
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
    monkeypatch.setenv("BRANCHPOINT_STORE", str(tmp_path / "two.toml" / "store"))
    code, said = failing_demo()
    assert code == 2
    assert said.startswith(f"branchpoint-demo: tasks: cannot write {tmp_path / 'two.toml' / 'store'}")
    assert "BRANCHPOINT_STORE" in said
    assert said.count("\n") == 1


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
