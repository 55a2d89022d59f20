"""Online RL as assets: a fast loop in one, a slow loop a round at a time, whose sensor starts one run however asked."""

from __future__ import annotations

import json
from collections.abc import Iterator

import dagster as dg
import pytest
from scripted_round import Pupil, scripted

from assets.online import next_round, numbered, online, online_round
from assets.partitions import add_partitions
from assets.resources import Workplace
from pipeline.generation.policies import find_policy
from pipeline.stages.work import Work
from trainers.online.rounds import OnlineConfig, run_name

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    pytest.mark.filterwarnings("ignore::dagster.PreviewWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
FORM = {"rounds": 2, "method": "rloo", "changes": json.dumps({"group": 4, "minibatch": 6})}


@pytest.fixture
def work(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    with scripted(tmp_path, Pupil()) as found:
        monkeypatch.setenv("BRANCHPOINT_SUITES", str(tmp_path))
        yield found


def materialise(asset: dg.AssetsDefinition, work: Work, round: str, instance: dg.DagsterInstance) -> None:
    settings = work.settings
    place = Workplace(engine="scripted", store=str(settings.store), policies=str(settings.policies))
    outcome = dg.materialize(
        [asset],
        instance=instance,
        partition_key=add_partitions(instance, suite="three", round=round),
        resources={"workplace": place},
        run_config={"ops": {asset.op.name: {"config": FORM}}},
    )
    assert outcome.success


def test_a_fast_loop_names_its_rounds_after_the_partition(work):
    with dg.DagsterInstance.ephemeral() as instance:
        materialise(online, work, "r0", instance)
    assert {place.round for place in work.store.places("rl_samples", stage="rloo")} == {
        f"r0-{run_name(OnlineConfig(**FORM))}-{number}" for number in (0, 1)
    }
    assert run_name(OnlineConfig("my/own.toml", method="tempo", seed=3)) == "own-tempo-s3"


def test_a_slow_loop_goes_on_round_by_round_to_its_end(work):
    with dg.DagsterInstance.ephemeral() as instance:
        materialise(online_round, work, "a0", instance)
        asked = [next_round(dg.build_sensor_context(instance=instance)) for _ in range(2)]
        (run,), (again,) = (one.run_requests for one in asked)
        assert run.run_key == again.run_key == "three/a1"
        assert run.partition_key.keys_by_dimension == {"suite": "three", "round": "a1"}
        assert run.run_config["ops"][online_round.op.name]["config"] == FORM
        materialise(online_round, work, "a1", instance)
        assert not next_round(dg.build_sensor_context(instance=instance)).run_requests
    parent = json.loads((work.settings.policies / "three-a1-online/lineage.json").read_text())["parent_fingerprint"]
    assert parent == find_policy("three-a0-online", policies=work.settings.policies).fingerprint


def test_the_sensor_is_off_by_default():
    assert next_round.default_status is dg.DefaultSensorStatus.STOPPED


@pytest.mark.parametrize(("name", "parts"), [("a12", ("a", 12)), ("r0-rl3", ("r0-rl", 3)), ("pilot", ("pilot", None))])
def test_a_round_and_its_number(name, parts):
    assert numbered(name) == parts
