"""Rounds that are sampled while the one before is in its update: by which policy, anew, and by another process."""

from __future__ import annotations

import json
import logging
import operator
import os
import signal
import time
from functools import partial

import pytest
import torch
from scripted_round import SUITE

from pipeline.errors import BadConfig
from pipeline.settings import Settings, only_gpu
from pipeline.stages.work import Work, make_work
from trainers.online import rounds
from trainers.online.ahead import beside, spare_device
from trainers.online.rounds import OnlineConfig, train_online

CHANGES = {"group": 2, "entropy_weight": 0.01, "eval_samples": 0, "overlap": True}


@pytest.fixture
def work(tmp_path) -> Work:
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites/three.toml").write_text(SUITE)
    settings = Settings(tmp_path / "store", tmp_path / "policies", tmp_path / "release", tmp_path / "suites")
    return make_work(settings, suite="three", round="r0", engine="transformers")


def test_a_round_is_sampled_beside_the_update_before_by_the_policy_before(work, monkeypatch):
    found, credit = {}, rounds.credit_round

    def looked(run, number):
        found[number] = bool(run.at(number).places("nodes", stage="rollouts"))
        return credit(run, number)

    monkeypatch.setattr(rounds, "credit_round", looked)
    train_online(work, OnlineConfig("grpo", rounds=3, changes=json.dumps(CHANGES)))
    assert found == {0: False, 1: True, 2: True}
    asked = {name: work.store.scan("requests", suite="three", round=name).collect() for name in ("r0", "r1", "r2")}
    policies = {name: set(rows["policy"]) for name, rows in asked.items()}
    samples = {name: set(rows["sample_index"]) for name, rows in asked.items()}
    lineage = [json.loads((work.settings.policies / f"three-r{n}-online/lineage.json").read_text()) for n in (1, 2)]
    assert policies["r0"] == policies["r1"] != policies["r2"]
    assert all(one.startswith(lineage[0]["parent_fingerprint"]) for one in policies["r2"])  # what round 0 made
    assert [one["parent"] for one in lineage] == ["three-r0-online", "three-r1-online"]
    assert not samples["r0"] & samples["r1"]
    assert not any(rows["reused"].any() for rows in asked.values())


@pytest.mark.parametrize(("count", "device"), [(0, None), (2, 1)])
def test_the_engine_beside_has_a_gpu_of_its_own(monkeypatch, count, device):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert spare_device("vllm") == device
    assert spare_device("served") is None


def test_the_only_gpu_is_the_trainers(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(BadConfig, match="overlap"):
        spare_device("vllm")


@pytest.mark.parametrize(("seen", "only"), [("", "1"), ("4,5", "5")])
def test_a_gpu_is_numbered_among_those_that_are_seen(monkeypatch, seen, only):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    only_gpu(1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == only


def test_what_failed_beside_is_said_and_harms_nothing(caplog):
    with caplog.at_level(logging.WARNING), beside(partial(operator.truediv, 1, 0), of="round r9"):
        pass
    assert "round r9 was not sampled ahead" in caplog.text


def test_an_interrupt_is_left_to_whoever_asked(caplog):
    with caplog.at_level(logging.WARNING), beside(partial(signal.raise_signal, signal.SIGINT), of="round r9"):
        pass
    assert not caplog.text


def test_nothing_is_left_running_where_the_block_fails():
    begun = time.monotonic()
    with pytest.raises(KeyError), beside(partial(time.sleep, 600), of="round r9"):
        raise KeyError
    assert time.monotonic() - begun < 60
