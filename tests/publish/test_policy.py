"""A policy on a Hub on this machine: what is sent, what its card says, and that the client can load it back."""

from __future__ import annotations

import json
import shutil

import polars as pl
import pytest
from fakes.hub import TOKEN, FakeHub
from huggingface_hub import ModelCard, constants, utils

from pipeline.errors import BadConfig
from pipeline.generation.policies import find_policy
from pipeline.publish.hub import Hub
from pipeline.publish.policy import PolicyConfig, publish_policy, stage_policy
from pipeline.settings import Settings
from pipeline.store.layout import Place
from pipeline.store.store import Store

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


@pytest.fixture
def settings(tmp_path) -> Settings:
    """A trained policy, beside what no one else should have, and a store that measured it."""
    found = Settings(tmp_path / "store", tmp_path / "policies", tmp_path / "release", tmp_path)
    shutil.copytree(find_policy("tiny", policies=tmp_path).path, found.policies / "mine")
    (found.policies / "mine" / "lineage.json").write_text(json.dumps({"method": "dpo", "parent": "tiny", "rows": 7}))
    (found.policies / "mine" / "notes.txt").write_text("private")
    figures = {"suite": "chain_sum", "split": "held_out", "metric": "pass@1", "low": 0.6, "high": None, "count": 500}
    rows = [{"policy": name, "value": value, **figures} for name, value in (("mine", 0.625), ("tiny", 0.5))]
    types = {"low": pl.Float64, "high": pl.Float64, "count": pl.Int64}
    Store(found.store).write("evals", pl.DataFrame(rows).cast(types), Place("chain_sum", "r0", "dpo", "h"), inputs={})
    return found


def test_the_folder_and_its_card(settings):
    policy = find_policy("mine", policies=settings.policies)
    local = stage_policy(policy, Store(settings.store), settings.release / "policy-mine", "apache-2.0")
    assert {"model.safetensors", "tokenizer.json", "generation_config.json", "lineage.json"} <= local.files.keys()
    assert "notes.txt" not in local.files
    assert {path.name for path in local.folder.iterdir()} == local.files.keys()
    card = ModelCard.load(local.folder / "README.md")
    assert card.data.license == "apache-2.0"
    assert "branchpoint" in card.data.tags
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("chain_sum", "pass@1", 0.625)
    assert "| `chain_sum` | held_out | `pass@1` | 0.625 |" in card.text
    assert '| `parent` | `"tiny"` |' in card.text
    assert find_policy(str(local.folder), policies=settings.policies).fingerprint == policy.fingerprint
    again = stage_policy(policy, Store(settings.store), local.folder, "apache-2.0")
    assert again == local


def test_nothing_else_is_replaced(settings, tmp_path):
    policy = find_policy("mine", policies=settings.policies)
    for place, said in ((policy.path, "is the policy itself"), (tmp_path, "holds no release")):
        with pytest.raises(BadConfig, match=said):
            stage_policy(policy, Store(settings.store), place, "mit")
    assert (policy.path / "notes.txt").exists()


def test_published_once(settings, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    utils.disable_progress_bars()
    with FakeHub() as fake:
        hub, config = Hub(fake.endpoint, TOKEN, pauses=()), PolicyConfig("mine", "me/mine", gate="auto")
        plan, done = publish_policy(settings, config, hub=hub)
        assert (plan.tag, done.private, done.sent) == ("v1.1", True, len(plan.new))
        assert fake.repos["models", "me/mine"].gated == "auto"
        assert done.url == f"{fake.endpoint}/me/mine/tree/v1.1"
        assert publish_policy(settings, config, hub=hub)[1].sent == 0
        assert publish_policy(settings, config, hub=hub, agree=lambda plan: False)[1] is None
        hub.fetch("me/mine", tmp_path / "back", kind="model", revision="v1.1")
    mine = find_policy("mine", policies=settings.policies)
    assert find_policy(str(tmp_path / "back"), policies=tmp_path).fingerprint == mine.fingerprint
