"""The asset of a publication: nothing without a repository, a link with one."""

from __future__ import annotations

import warnings
from dataclasses import replace

import dagster as dg
import pytest
from fakes.hub import TOKEN, FakeHub
from huggingface_hub import constants, utils
from scripted_round import Pupil, run, scripted

from assets.partitions import add_partitions
from assets.publish import published
from assets.resources import Workplace

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    pytest.mark.filterwarnings("ignore::dagster.PreviewWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    with scripted(tmp_path_factory.mktemp("round"), Pupil()) as made:
        run(made)
        yield made


@pytest.fixture
def fake(monkeypatch, tmp_path):
    with FakeHub() as hub:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        utils.disable_progress_bars()
        yield hub


def materialise(work, **config: object) -> dg.ExecuteInProcessResult:
    places = {name: str(getattr(work.settings, name)) for name in ("store", "policies", "release")}
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with dg.DagsterInstance.ephemeral() as instance:
            return dg.materialize(
                [published],
                instance=instance,
                partition_key=add_partitions(instance, suite="three", round="r0"),
                resources={"workplace": Workplace(engine="scripted", **places)},
                run_config={**quiet, "ops": {"release__hub": {"config": config}}},
            )


def test_off_unless_a_repository_is_named(work, fake, monkeypatch):
    monkeypatch.setenv("BRANCHPOINT_SUITES", str(work.settings.suites))
    outcome = materialise(work)
    assert outcome.success
    assert outcome.get_asset_materialization_events() == []
    assert fake.seen == []


def test_the_link_is_in_the_metadata(work, fake, monkeypatch, tmp_path):
    monkeypatch.setenv("BRANCHPOINT_SUITES", str(work.settings.suites))
    mine = replace(work, settings=replace(work.settings, release=tmp_path / "release"))
    (done,) = materialise(mine, repo="me/sums").asset_materializations_for_node("release__hub")
    repo = fake.repos["datasets", "me/sums"]
    assert repo.private
    assert done.metadata["link"] == dg.MetadataValue.url(f"{fake.endpoint}/datasets/me/sums/tree/v5.1")
    assert done.metadata["commit"].value == repo.head == repo.tags["v5.1"]
    assert TOKEN not in str(done.metadata)
