"""The asset of hygiene: its report in the metadata, and checks that stop a run before a release."""

from __future__ import annotations

import warnings

import dagster as dg
import pytest
from scripted_round import Pupil, run, scripted

from assets.partitions import add_partitions
from assets.publish import hygiene, release
from assets.resources import Workplace
from pipeline.stages.work import Work

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    pytest.mark.filterwarnings("ignore::dagster.PreviewWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Work:
    with scripted(tmp_path_factory.mktemp("round"), Pupil()) as made:
        run(made)
        yield made


def materialise(work: Work, **config: object) -> dg.ExecuteInProcessResult:
    places = {name: str(getattr(work.settings, name)) for name in ("store", "policies", "release")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with dg.DagsterInstance.ephemeral() as instance:
            return dg.materialize(
                [hygiene, release],
                instance=instance,
                partition_key=add_partitions(instance, suite="three", round="r0"),
                resources={"workplace": Workplace(engine="scripted", **places)},
                run_config={
                    "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                    "ops": {"hygiene": {"config": config}},
                },
                raise_on_error=False,
            )


def test_a_benchmark_question_stops_the_release(work, monkeypatch, tmp_path):
    monkeypatch.setenv("BRANCHPOINT_SUITES", str(work.settings.suites))
    (tmp_path / "sums.txt").write_text(work.store.tasks("three", split="train")["question"][0])
    outcome = materialise(work, benchmarks=[str(tmp_path / "sums.txt")])
    (done,) = outcome.asset_materializations_for_node("hygiene")
    assert done.metadata["withheld_benchmark"].value == 1
    assert {one.check_name for one in outcome.get_asset_check_evaluations() if not one.passed} == {
        "no_benchmark_questions"
    }
    assert not outcome.asset_materializations_for_node("release")


def test_a_clean_round_is_released(work, monkeypatch):
    monkeypatch.setenv("BRANCHPOINT_SUITES", str(work.settings.suites))
    outcome = materialise(work)
    assert outcome.success
    assert all(one.passed for one in outcome.get_asset_check_evaluations())
    card = next(work.settings.release.glob("*/README.md")).read_text()
    assert "## Hygiene" in card
