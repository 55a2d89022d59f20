"""The assets of scores and critics: what they depend on, and a pass of two columns materialised."""

from __future__ import annotations

import warnings

import dagster as dg
import pytest

from assets.definitions import defs
from assets.partitions import add_partitions
from assets.resources import Workplace
from assets.score import critics, scores
from pipeline.settings import Settings
from pipeline.stages.work import Work
from trainers.scores import PASSES

pytestmark = pytest.mark.filterwarnings("ignore::Warning")


def test_credit_depends_on_its_scores():
    graph = defs().resolve_asset_graph()
    above = {
        method: {key.to_user_string() for key in graph.get(dg.AssetKey(["credit", method])).parent_keys}
        for method in ("ma_rlhf", "archer", "grpo")
    }
    assert {"score/critic", "score/reference_logprobs"} <= above["ma_rlhf"]
    assert "score/archer" in above["archer"]
    assert not any(key.startswith("score/") for key in above["grpo"])
    of_archer = {key.to_user_string() for key in graph.get(dg.AssetKey(["score", "archer"])).parent_keys}
    assert "policies/utterance_critic" in of_archer


def test_passes_materialise(work: Work, monkeypatch):
    monkeypatch.setattr(Settings, "from_environment", lambda: work.settings)
    chosen = [critics[1], *(one for one in scores if one.key.path[-1] in ("archer", "attention"))]
    with warnings.catch_warnings(), dg.DagsterInstance.ephemeral() as instance:
        warnings.simplefilter("ignore")
        done = dg.materialize(
            chosen,
            instance=instance,
            partition_key=add_partitions(instance, suite="three", round="r0"),
            resources={"workplace": Workplace()},
            run_config={"ops": {"policies__utterance_critic": {"config": {"epochs": 1, "width": 8}}}},
        )
    assert done.success
    assert all(check.passed for check in done.get_asset_check_evaluations())
    found = {place.stage for place in work.places("scores")}
    assert found == {*PASSES["archer"], *PASSES["attention"]}
