"""Models that learn beside the policy: what a round of each leaves, and the implicit reward model's step in float64."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from scripted_round import Pupil, read, scripted
from torch.nn.utils import parameters_to_vector

from pipeline.credit.oprl import OprlParams
from pipeline.generation.policies import find_policy
from pipeline.labels.prm import find_prm
from pipeline.stages.work import Work
from trainers import runs
from trainers.online import rounds
from trainers.online.batches import samples_of
from trainers.online.compare import read_curve
from trainers.online.implicit import loss_recipe, taught_rows
from trainers.online.learners import write_scores
from trainers.online.recipe import load_recipe
from trainers.online.rounds import OnlineConfig, train_online
from trainers.online.update import train
from trainers.online.warm_up import begun_from

SMALL = {"minibatch": 6, "learning_rate": 1e-3}
TAUGHT = {"group": 4, "prm_training": {"labels": "outcome_broadcast", "steps": 2, "batch_size": 4}}


def asked(recipe: str, *, count: int = 2, **changes: object) -> OnlineConfig:
    return OnlineConfig(recipe, rounds=count, changes=json.dumps(SMALL | changes))


def labels(work: Work, round: str) -> pl.DataFrame:
    return work.store.scan("step_labels", suite="three", round=round).collect()


class TestProcessRewardModel:
    def test_a_fresh_store_trains_its_own_and_keeps_it_until_its_turn_comes(self, tmp_path):
        with scripted(tmp_path, Pupil()) as work:
            training = TAUGHT["prm_training"] | {"labels": "monte_carlo"}
            grown = {"rule": "steps", "branches": 2, "prm_training": training, "prm_every": 2}
            train_online(work, asked("pure", count=3, **TAUGHT | grown))
            said = {name: set(labels(work, name)["version"]) for name in ("r0", "r1", "r2")}
            models = {name: find_prm(f"three-{name}-online", policies=work.settings.policies) for name in ("r0", "r2")}
            grown = {place.round for place in work.store.places("nodes", suite="three", stage="trees")}
        of_prm = {name: {one for one in versions if "-online-" in one} for name, versions in said.items()}
        spoken = {name: next(iter(versions)) for name, versions in of_prm.items()}
        assert all(len(versions) == 1 for versions in of_prm.values())
        assert spoken["r0"].endswith(models["r0"].fingerprint)
        assert spoken["r1"].endswith(models["r0"].fingerprint)
        assert spoken["r2"].endswith(models["r2"].fingerprint)
        assert said["r1"] == of_prm["r1"]  # trees are grown, and labelled, where a model is trained
        assert grown == {"r0", "r2"}

    def test_the_sum_differs_from_the_least_in_credit_alone(self, tmp_path):
        credits = {}
        with scripted(tmp_path, Pupil()) as work:
            for recipe in ("pure", "pure_sum"):
                train_online(replace(work, round=f"{recipe}-r0"), asked(recipe, count=1, **TAUGHT))
                credits[recipe] = work.store.scan("credit", suite="three", round=f"{recipe}-r0", stage="pure").collect()
            least, total = (labels(work, f"{recipe}-r0").filter(labeller="prm") for recipe in credits)
        assert least["soft"].to_list() == total["soft"].to_list()
        assert credits["pure"]["advantage"].to_list() != credits["pure_sum"]["advantage"].to_list()


@pytest.fixture(scope="module")
def learnt(tmp_path_factory) -> Iterator[Work]:
    """Two rounds of OPRL."""
    with scripted(tmp_path_factory.mktemp("oprl"), Pupil()) as work:
        train_online(work, asked("oprl", group=4, implicit_rate=1e-3))
        yield work


class TestImplicit:
    def test_each_round_asks_the_model_as_it_was_before_it_learnt(self, learnt):
        folder = learnt.settings.policies
        prints = [find_policy(f"three-r{number}-implicit", policies=folder).fingerprint for number in (0, 1)]
        scores = [learnt.store.entry("scores", learnt.store.places("scores", round=name)[0]) for name in ("r0", "r1")]
        assert len({learnt.policy.fingerprint, *prints}) == 3
        assert [one.inputs["policy"] for one in scores] == [learnt.policy.fingerprint, prints[0]]

    def test_it_learns_to_tell_success_from_failure(self, learnt):
        evals = learnt.store.read("evals", learnt.store.places("evals", suite="three"))
        seen = {
            (policy, metric): value
            for policy, metric, value in evals.select("policy", "metric", "value").iter_rows()
            if metric in ("prm_loss", "prm_accuracy", "step_score")
        }
        losses = [seen[f"three-r{number}-online", "prm_loss"] for number in (0, 1)]
        assert losses[0] == pytest.approx(np.log(2), abs=0.5)  # the scripted engine's log-probabilities are made up
        assert losses[1] < losses[0]
        assert 0 <= seen["three-r1-online", "prm_accuracy"] <= 1

    def test_a_run_that_is_done_is_left_alone(self, learnt):
        before = find_policy("three-r1-implicit", policies=learnt.settings.policies).fingerprint
        assert train_online(learnt, asked("oprl", group=4, implicit_rate=1e-3)).fresh == 0
        assert find_policy("three-r1-implicit", policies=learnt.settings.policies).fingerprint == before

    def test_its_step_is_that_of_the_published_loss(self, learnt):
        """Against the loss written out in float64 on every attempt apart."""
        rows, recipe = read(learnt, "rl_samples", "oprl"), load_recipe("oprl")
        taught, _ = taught_rows(learnt, rows, method="oprl", params=recipe.params_at(0))
        model = runs.load_model(learnt.policy)
        moved, before = copy.deepcopy(model), parameters_to_vector(model.parameters()).detach().clone()
        optimiser = torch.optim.SGD(moved.parameters(), lr=1.0)
        step = loss_recipe(recipe)
        train(moved, samples_of(taught, step), step, optimiser)
        found = (before - parameters_to_vector(moved.parameters()).detach()).double()
        exact = copy.deepcopy(model).double()
        published(exact, rows, read(learnt, "nodes")).backward()
        wanted = torch.cat([parameter.grad.reshape(-1) for parameter in exact.parameters()])
        wanted *= min(1.0, 10.0 / float(wanted.norm()))
        assert float(wanted.abs().max()) > 1e-6
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))


def published(model: torch.nn.Module, rows: pl.DataFrame, nodes: pl.DataFrame) -> torch.Tensor:
    """Mean of -log sigmoid(winner - loser) over pairs of a task; a score is beta times the mean step's log-ratio."""
    parents = {(row["tree"], row["node"]): row["parent"] for row in nodes.iter_rows(named=True)}
    scores: dict[str, list[tuple[float, torch.Tensor]]] = {}
    for row in rows.iter_rows(named=True):
        steps, node = 0, row["node"]
        while parents[row["tree"], node] is not None:
            steps, node = steps + 1, parents[row["tree"], node]
        ids = torch.tensor([row["prompt_ids"] + row["answer_ids"]])
        logs = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0, :-1], dim=-1)
        own = logs.gather(1, ids[0, 1:, None])[len(row["prompt_ids"]) - 1 :, 0]
        ratio = (own - torch.tensor(row["logprobs"], dtype=torch.float64)).sum()
        scores.setdefault(row["tree"], []).append((row["reward"], OprlParams().beta * ratio / steps))
    losses = [
        -torch.nn.functional.logsigmoid(good - bad)
        for some in scores.values()
        for reward, good in some
        for other, bad in some
        if reward > 0 >= other
    ]
    return torch.stack(losses).mean()


@pytest.mark.parametrize(
    ("recipe", "scores"),
    [
        pytest.param("archer", {"critic_q", "critic_v"}, id="ArCHer: a critic of steps, every round"),
        pytest.param("prime", {"prm_logprobs", "reference_logprobs"}, id="PRIME: outcomes, against where it began"),
    ],
)
def test_what_a_method_needs_is_made_in_every_round(tmp_path, recipe, scores):
    changes = {"critic_training": {"epochs": 2, "width": 8, "held_share": 0.3}} if recipe == "archer" else {}
    with scripted(tmp_path, Pupil()) as work:
        train_online(work, asked(recipe, group=4, **changes))
        for name in ("r0", "r1"):
            assert {place.stage for place in work.store.places("scores", suite="three", round=name)} == scores
            credit = work.store.scan("credit", suite="three", round=name).collect()
            assert (credit["advantage"].drop_nulls() != 0).any()


def test_a_method_that_needs_no_model_loads_none(tmp_path):
    with scripted(tmp_path, Pupil()) as work:
        write_scores(work, load_recipe("grpo"), first="none", implicit="none", seed=0)
        assert not work.store.places("scores")


@pytest.fixture(scope="module")
def warmed(tmp_path_factory) -> Iterator[Work]:
    """Interventions, and a round after them that spends the last token."""
    with scripted(tmp_path_factory.mktemp("int"), Pupil()) as work:
        start = {"group": 4, "continuations": 2, "training": {"steps": 2, "batch_size": 2}}
        report = train_online(work, replace(asked("int_then_rl", group=4, start=start), tokens=1))
        assert report.numbers["rounds"] == 1
        assert report.numbers["decoded_tokens"] == read_curve(work, 1, warmed=True).tokens[-1]
        yield work


class TestWarmUp:
    def test_rounds_begin_from_a_policy_trained_on_interventions(self, warmed):
        lineage = json.loads((warmed.settings.policies / "three-r0-online/lineage.json").read_text())
        assert lineage["parent"] == begun_from(warmed) == "three-r0-int-int"
        assert warmed.store.places("patches", suite="three", round="r0-int")
        assert not warmed.store.places("patches", suite="three", round="r0")

    def test_its_tokens_count_and_its_curve_begins_before_it(self, warmed):
        curve = read_curve(warmed, 1, warmed=True)
        spent = warmed.store.scan("requests", suite="three", round="r0-int").select("decoded_tokens").sum().collect()
        assert curve.tokens[:2].tolist() == [0.0, spent.item()]
        assert spent.item() > 0
        assert len(curve.passed) == 3
        assert not np.isnan(curve.passed).any()


def test_alarms_are_told_as_rounds_pass(tmp_path, caplog, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rounds, "alarms", lambda seen: [f"{len(seen)} seen"])
    with scripted(tmp_path, Pupil()) as work, caplog.at_level("WARNING", logger="trainers"):
        report = train_online(work, asked("rloo", group=4))
    assert [record.getMessage() for record in caplog.records] == ["round r0: 1 seen", "round r1: 2 seen"]
    assert report.notes == ("2 seen",)
