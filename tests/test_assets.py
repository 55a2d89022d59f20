"""The graph: that it is whole, described and checked; what an asset tells the UI."""

from __future__ import annotations

import warnings
from pathlib import Path

import dagster as dg
import pytest

from assets.definitions import ASSETS, defs
from assets.generate import tasks
from assets.partitions import add_partitions
from assets.resources import Workplace, every_so_often
from pipeline.credit import METHODS
from pipeline.labels import LABELLERS
from pipeline.report import Progress

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    pytest.mark.filterwarnings("ignore::dagster.PreviewWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

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


def materialise(folder: Path, suite: str) -> dg.ExecuteInProcessResult:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with dg.DagsterInstance.ephemeral() as instance:
            return dg.materialize(
                [tasks],
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
