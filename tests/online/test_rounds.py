"""Rounds with a scripted engine: what each leaves in the store, and that a run killed anywhere goes on to the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from scripted_round import Pupil, scripted

from pipeline.errors import BadConfig, BadTable
from pipeline.stages.rl_samples import RlSampleConfig, write_rl_samples
from pipeline.stages.verdicts import write_verdicts
from pipeline.stages.work import Work
from pipeline.store.layout import Place
from trainers.online import rounds, sampling, update
from trainers.online.rounds import OnlineConfig, train_online

CHANGES = json.dumps({"group": 4, "minibatch": 6, "learning_rate": 1e-3, "agreement": True})
TWO = OnlineConfig("grpo", rounds=2, changes=CHANGES)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Work]:
    """Two rounds of GRPO, not for change."""
    with scripted(tmp_path_factory.mktemp("online"), Pupil()) as work:
        report = train_online(work, TWO)
        assert report.fresh == 2
        yield work


def outcome(work: Work) -> dict[str, object]:
    """What must be the same whenever and however often the run was cut off."""
    store, suite = work.store, work.suite.name
    evals = store.read("evals", store.places("evals", suite=suite)).filter(pl.col("metric") != "seconds")
    samples = store.places("rl_samples", suite=suite)
    policies = sorted(work.settings.policies.glob("[!.]*/lineage.json"))
    return {
        "samples": {str(place): store.digest("rl_samples", place) for place in samples},
        "evals": evals.sort("policy", "split", "metric").rows(),
        "policies": {file.parent.name: json.loads(file.read_text()) for file in policies},
    }


def test_each_round_samples_with_the_policy_of_the_round_before(done):
    nodes = {name: done.store.scan("nodes", suite="three", round=name).collect() for name in ("r0", "r1")}
    drawn = {name: set(rows.filter("sampled")["policy"]) for name, rows in nodes.items()}
    made = [json.loads((done.settings.policies / f"three-r{n}-online/lineage.json").read_text()) for n in (0, 1)]
    assert drawn["r0"] == {f"{made[0]['parent_fingerprint']}.{rest}" for rest in _engine(drawn["r0"])}
    assert drawn["r1"] == {f"{made[1]['parent_fingerprint']}.{rest}" for rest in _engine(drawn["r1"])}
    assert made[0]["parent_fingerprint"] != made[1]["parent_fingerprint"]
    assert made[1]["parent"] == "three-r0-online"


def _engine(fingerprints: set[str]) -> set[str]:
    return {one.partition(".")[2] for one in fingerprints}


def test_every_trained_token_is_one_of_the_store(done):
    samples = done.store.scan("rl_samples", suite="three", round="r0").collect()
    nodes = done.store.scan("nodes", suite="three", round="r0").collect().filter("sampled")
    trained = int(samples["loss_mask"].list.sum().sum())
    assert trained == nodes["token_count"].sum()
    credit = done.store.scan("credit", suite="three", round="r0", stage="grpo").collect()
    wanted = samples.join(credit, on=["tree", "node"], suffix="_credit")
    assert (wanted["advantages"].list.last() - wanted["advantage"]).abs().max() < 1e-6


def test_rounds_that_are_done_are_left_alone(done):
    before = outcome(done)
    assert train_online(done, TWO).fresh == 0
    assert outcome(done) == before


def test_another_recipe_or_seed_needs_rounds_of_its_own(done):
    for other in (replace(TWO, seed=1), replace(TWO, recipe="rloo")):
        with pytest.raises(BadConfig, match="another recipe, seed or policy"):
            train_online(done, other)


def test_a_recipe_that_could_not_begin_does_not_hold_its_round(tmp_path):
    with scripted(tmp_path, Pupil()) as work:
        with pytest.raises(BadConfig, match="nosuch"):
            train_online(work, replace(TWO, rounds=1, changes='{"strategy": "nosuch"}'))
        assert train_online(work, replace(TWO, rounds=1)).fresh == 1


def test_seeds_and_rounds_that_would_draw_what_others_draw_are_refused(done):
    for asked in (replace(TWO, seed=2048), replace(TWO, rounds=1025)):
        with pytest.raises(BadConfig, match="give at most"):
            train_online(done, asked)


def test_figures_of_every_round_are_rows_and_a_picture(done):
    evals = done.store.read("evals", done.store.places("evals", suite="three", round="r1"))
    figures = dict(evals.filter(pl.col("policy") == "three-r1-online").select("metric", "value").iter_rows())
    assert figures.keys() >= {"reward", "pass@1", "entropy", "kl", "clip_share", "zero_advantage_share", "seconds"}
    assert 0.5 < figures["oracle_auc"] < 1  # right attempts have more, but all steps of an attempt alike
    samples = done.store.read("rl_samples", done.store.places("rl_samples", suite="three", round="r1"))
    assert figures["answer_tokens"] == samples["answer_ids"].list.len().mean()
    asked = done.store.scan("requests", suite="three", round="r1").select(pl.col("decoded_tokens").sum()).collect()
    assert figures["decoded_tokens"] == asked.item()
    assert (done.store.files.local / "pictures/three/r0/online.png").stat().st_size > 1000


class Killed(BaseException):
    """What stands for a kill: nothing catches it."""


def test_a_run_killed_in_any_phase_comes_to_the_same(done, tmp_path, monkeypatch):
    """Killed once in each phase of its second round, one after the other, then let go."""
    places = [(sampling, "write_rollouts")]
    places += [(rounds, name) for name in ("write_verdicts", "write_credit", "write_rl_samples")]
    places += [(update, "save_state"), (update.saving, "save_policy")]
    places += [(rounds, "write_evals"), (rounds, "round_figures")]
    with scripted(tmp_path, Pupil()) as work:
        train_online(work, replace(TWO, rounds=1))
        for module, name in places:
            with monkeypatch.context() as patch:
                patch.setattr(module, name, _dying(getattr(module, name)))
                with pytest.raises(Killed):
                    train_online(work, TWO)
        report = train_online(work, TWO)
        assert report.shards == 2
        assert outcome(work) == outcome(done)


def _dying(function):
    def die(*given, **options):
        work = next((one for one in given if isinstance(one, Work)), None)
        if work is None or work.round == "r1" or work.policy_name == "three-r1-online":
            raise Killed
        return function(*given, **options)

    return die


def test_tokens_end_a_run_after_the_round_that_spends_them(tmp_path):
    with scripted(tmp_path, Pupil()) as work:
        report = train_online(work, replace(TWO, rounds=3, tokens=1))
        assert report.numbers["rounds"] == 1
        assert report.numbers["decoded_tokens"] > 1


def test_seeds_draw_answers_of_their_own(done, tmp_path):
    with scripted(tmp_path, Pupil()) as work:
        train_online(work, replace(TWO, rounds=1, seed=3))
        drawn = _samples(work, "r0")
    assert drawn == {(3 << 20) + index for index in _samples(done, "r0")}


def test_rounds_draw_answers_of_their_own(done):
    assert _samples(done, "r1") == {(1 << 10) + index for index in _samples(done, "r0")}


def _samples(work: Work, round: str) -> set[int]:
    return set(work.store.scan("requests", suite="three", round=round).collect()["sample_index"])


@pytest.mark.parametrize(
    ("recipe", "stage"),
    [
        pytest.param("spo_tree", "spo_tree", id="SPO-tree: a tree from the prompt"),
        pytest.param("r3l", "retry_rows", id="R3L: retries and OPMD"),
        pytest.param("pure", "pure", id="PURE: steps labelled by continuations"),
    ],
)
def test_recipes_run_whole(tmp_path, recipe, stage):
    with scripted(tmp_path, Pupil()) as work:
        report = train_online(work, OnlineConfig(recipe, rounds=1))
        assert report.numbers["decoded_tokens"] > 0
        assert work.places("rl_samples", stage=stage)


def test_samples_without_credit_are_refused(done, tmp_path):
    with pytest.raises(BadTable, match="credit --method dr_grpo"):
        write_rl_samples(done, RlSampleConfig("dr_grpo"))
    with pytest.raises(BadConfig, match="nothing_of_the_sort"):
        write_rl_samples(done, RlSampleConfig("nothing_of_the_sort"))


def test_samples_whose_credit_is_older_than_the_nodes_are_refused(done, tmp_path):
    store = Path(shutil.copytree(done.settings.store, tmp_path / "store"))
    work = replace(done, settings=replace(done.settings, store=store))
    (place,) = work.places("verdicts", stage="rollouts")
    rows = work.store.read("verdicts", [place]).with_columns(reward=1 - pl.col("reward"))
    made_from = work.store.entry("verdicts", place).inputs
    work.store.write("verdicts", rows, Place("three", "r0", "rollouts", place.shard), inputs=made_from)
    write_verdicts(work)
    with pytest.raises(BadTable, match="grpo"):
        write_rl_samples(work, RlSampleConfig("grpo"))


def test_samples_of_a_round_follow_from_the_rounds_before(tmp_path):
    with scripted(tmp_path, Pupil()) as work:
        train_online(work, OnlineConfig("knapsack", rounds=2, changes='{"group": 8, "minibatch": 6}'))
        drawn = {
            name: work.store.scan("requests", suite="three", round=name).group_by("task").len().collect()["len"].sum()
            for name in ("r0", "r1")
        }
    assert drawn == {"r0": 24, "r1": 24}
