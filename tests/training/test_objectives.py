"""Objectives against reference vectors, and against the same losses in float64 numpy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.golden.dpo import side
from pipeline.metrics import preference
from pipeline.metrics.preference import PreferenceParams, TRegParams
from trainers.objectives.dpo import LOSS_TYPES, dpo
from trainers.objectives.int import intervention_loss
from trainers.objectives.sft import weighted_likelihood
from trainers.objectives.t_reg import t_reg, token_rewards
from trainers.objectives.tdpo import position_kl, tdpo

GOLDEN = Path(__file__).parent.parent / "golden"


def cases(name: str) -> list:
    found = json.loads((GOLDEN / f"{name}.json").read_text())["cases"]
    return [pytest.param(case, id=case["name"]) for case in found]


def column(rows, name: str) -> torch.Tensor:
    return torch.tensor([sum(row[name]) for row in rows], dtype=torch.float64)


def near(values):
    return pytest.approx(np.asarray(values), rel=1e-6, abs=1e-8)


def ratios(pairs: list[dict], name: str) -> tuple[torch.Tensor, torch.Tensor]:
    rows = [pair[name] for pair in pairs]
    tokens = torch.tensor([len(row["logprobs_policy"]) for row in rows])
    return column(rows, "logprobs_policy") - column(rows, "logprobs_reference"), tokens


@pytest.mark.parametrize("case", [one for one in cases("dpo") if "pairs" in one.values[0]["input"]])
def test_dpo_vectors(case):
    params, wanted = case["params"], case["expected"]
    (won, won_tokens), (lost, lost_tokens) = (ratios(case["input"]["pairs"], name) for name in ("chosen", "rejected"))
    found = dpo(won, lost, **params, chosen_tokens=won_tokens, rejected_tokens=lost_tokens)
    assert found.loss.numpy() == near(wanted["per_pair_loss"])
    assert found.loss.mean().item() == near(wanted["loss"])
    assert found.chosen.numpy() == near(wanted["rewards_chosen"])
    assert found.rejected.numpy() == near(wanted["rewards_rejected"])


def test_step_dpo_vector():
    (case,) = (one.values[0] for one in cases("dpo") if "chosen_step" in one.values[0]["input"])
    steps = [{"chosen": case["input"]["chosen_step"], "rejected": case["input"]["rejected_step"]}]
    found = dpo(ratios(steps, "chosen")[0], ratios(steps, "rejected")[0], beta=case["params"]["beta"])
    assert found.loss.item() == near(case["expected"]["loss"])
    assert (found.chosen - found.rejected).item() == near(case["expected"]["margin"])


def test_tdpo_vector():
    (case,) = (one.values[0] for one in cases("dpo") if "chosen_sequential_kl" in one.values[0]["input"])
    names = ("chosen_logratio_sum", "rejected_logratio_sum", "chosen_sequential_kl", "rejected_sequential_kl")
    given = [torch.tensor(case["input"][name], dtype=torch.float64, requires_grad=True) for name in names]
    found = tdpo(*given, beta=case["params"]["beta"], alpha=case["params"]["alpha"])
    assert found.loss.detach().numpy() == near(case["expected"]["per_pair_loss"])
    assert found.chosen.numpy() == near(case["expected"]["rewards_chosen"])
    assert found.rejected.numpy() == near(case["expected"]["rewards_rejected"])
    found.loss.sum().backward()
    assert given[2].grad is None, "no gradient through the chosen answer's divergence"
    assert given[3].grad.abs().min() > 0
    first = tdpo(*given, beta=0.1, alpha=None)
    numbers = [one.detach().numpy() for one in given]
    other = preference.tdpo((numbers[0], numbers[2]), (numbers[1], numbers[3]), PreferenceParams("tdpo1", 0.1))
    assert first.loss.detach().numpy() == near(other.loss)


@pytest.mark.parametrize("case", cases("t_reg"))
def test_t_reg_vectors(case):
    params, given, wanted = case["params"], case["input"], case["expected"]
    sides = ("chosen", "rejected")
    logs = {
        name: torch.tensor(given[name]["logprobs_policy"], dtype=torch.float64, requires_grad=True) for name in sides
    }
    rewards = {
        name: token_rewards(
            *(torch.tensor(given[name][f"logprobs_{aim}_prompt"], dtype=torch.float64) for aim in ("better", "worse"))
        )
        for name in sides
    }
    gained = [(logs[name].sum() - sum(given[name]["logprobs_reference"]))[None] for name in sides]
    pulls = [(rewards[name] * logs[name]).sum()[None] for name in sides]
    weighted = params["sequence_weighting"] == "dpo"
    found = t_reg(*gained, *pulls, beta=params["beta"], alpha=params["alpha"], weighted=weighted)
    assert found.loss.item() == near(wanted["total_loss"])
    assert found.preference.item() == near(wanted["preference_loss"])
    assert found.weight.item() == near(wanted["sequence_weight"])
    assert (found.chosen.item(), found.rejected.item()) == near([wanted["sequence_reward"][name] for name in sides])
    found.loss.backward()
    for name in sides:
        assert rewards[name].numpy() == near(wanted["token_rewards"][name])
        assert logs[name].grad.numpy() == near(wanted["grad_wrt_policy_logprobs"][name])


def test_alpha_0_is_the_preference_loss_bit_for_bit():
    given = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    found = t_reg(*given, beta=0.1, alpha=0.0)
    assert torch.equal(found.loss, dpo(given[0], given[1], beta=0.1).loss)


@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_t_reg_over_simpo(gamma):
    rng = np.random.default_rng(0)
    pair = {
        name: {"logprobs_policy": (-rng.random(count)).tolist()} for name, count in (("chosen", 3), ("rejected", 5))
    }
    rewards = tuple(rng.random(count) - 0.5 for count in (3, 5))
    params = TRegParams(base_loss="simpo", gamma=gamma, beta=2.0)
    other = preference.t_reg(side([pair], "chosen"), side([pair], "rejected"), rewards, params)
    logs = [torch.tensor(pair[name]["logprobs_policy"], dtype=torch.float64) for name in ("chosen", "rejected")]
    pulls = [(torch.tensor(reward) * log).sum()[None] for reward, log in zip(rewards, logs, strict=True)]
    found = t_reg(*(log.mean()[None] for log in logs), *pulls, beta=2.0, gamma=gamma)
    assert found.loss.numpy() == near(other.total)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_losses_as_in_numpy(loss_type):
    rng = np.random.default_rng(0)
    logs = {name: rng.normal(size=12) for name in ("won", "won_ref", "lost", "lost_ref")}
    offsets = np.array([0, 2, 7, 12])
    sides = [preference.Side(logs[name], offsets, logs[f"{name}_ref"]) for name in ("won", "lost")]
    params = PreferenceParams(loss_type, 0.7, 0.1)
    other = preference.dpo(*sides, params)
    tokens = torch.tensor(np.diff(offsets))
    found = dpo(
        *(torch.tensor(one.ratios()) for one in sides),
        beta=0.7,
        loss_type=loss_type,
        label_smoothing=0.1,
        chosen_tokens=tokens,
        rejected_tokens=tokens,
    )
    assert found.loss.numpy() == near(other.loss)


def test_what_a_loss_lacks():
    ones = torch.ones(2)
    with pytest.raises(ValueError, match="needs the tokens"):
        dpo(ones, ones, beta=1.0, loss_type="ipo")
    with pytest.raises(ValueError, match="none of sigmoid"):
        dpo(ones, ones, beta=1.0, loss_type="tdpo1")


@pytest.mark.parametrize("case", [one for one in cases("int") if one.values[0]["expected"].get("labels")])
def test_int_trains_what_is_labelled(case):
    ids, labels = (torch.tensor(case["expected"][name]) for name in ("input_ids", "labels"))
    logprobs = torch.full((len(ids),), torch.nan)
    trained = labels != -100
    logprobs[trained] = -torch.arange(1, 1 + int(trained.sum())).float()
    count = case["expected"]["n_intervention_tokens"]
    if case["params"]["clone"] != "intervention_only":
        count += case["expected"]["n_prefix_tokens"]
    assert intervention_loss(logprobs, labels).item() == count * (count + 1) / 2


def test_weights_add_up():
    logprobs, weights = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([2.0, 0.5, 0.0])
    assert weighted_likelihood(logprobs, weights).item() == 3.0


def test_divergence_of_positions():
    reference, policy = torch.tensor([[0.0, 0.0], [1.0, 2.0]]), torch.tensor([[0.0, np.log(3)], [1.0, 2.0]])
    assert position_kl(reference, policy).numpy() == pytest.approx([0.5 * np.log(4 / 3), 0.0], abs=1e-6)
