"""The update: its gradient against a plain float64 pass over each attempt, packed against apart, and TRL's own loss."""

from __future__ import annotations

import copy
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn.utils import parameters_to_vector
from transformers import LlamaForCausalLM

from pipeline.errors import BadConfig, BadModel
from pipeline.generation.policies import find_policy
from trainers import runs
from trainers.online.batches import minibatches, samples_of
from trainers.online.recipe import OnlineRecipe
from trainers.online.update import train, update_policy

PLAIN = OnlineRecipe(minibatch=0, most_norm=1e9, most_weight=0.0, loss="reinforce")


def gradient(model: LlamaForCausalLM, rows: pl.DataFrame, recipe: OnlineRecipe, **options) -> np.ndarray:
    """What one step of plain descent at rate 1 takes off the weights."""
    moved = copy.deepcopy(model)
    before = parameters_to_vector(moved.parameters()).detach().clone()
    train(moved, samples_of(rows, recipe), recipe, torch.optim.SGD(moved.parameters(), lr=1.0), **options)
    return (before - parameters_to_vector(moved.parameters()).detach()).double().numpy()


def logprobs_apart(model: LlamaForCausalLM, row: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each answer token, and the entropy before it, from the attempt alone."""
    ids = torch.tensor([row["prompt_ids"] + row["answer_ids"]])
    logs = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0, :-1].to(torch.float64), dim=-1)
    own = slice(len(row["prompt_ids"]) - 1, None)
    return logs.gather(1, ids[0, 1:, None])[own, 0], -(logs.exp() * logs).sum(dim=-1)[own]


def plain_gradient(model: LlamaForCausalLM, rows: pl.DataFrame, loss_of_rows) -> np.ndarray:
    """Gradient of a function of each attempt's log-probabilities and entropies, in float64, nothing shared."""
    exact = copy.deepcopy(model).double()
    loss_of_rows([(row, *logprobs_apart(exact, row)) for row in rows.iter_rows(named=True)]).backward()
    return torch.cat([parameter.grad.reshape(-1) for parameter in exact.parameters()]).numpy()


def alike(found: np.ndarray, wanted: np.ndarray) -> None:
    assert np.abs(wanted).max() > 1e-3
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


def masked(row: dict) -> tuple[torch.Tensor, torch.Tensor]:
    kept = torch.tensor(row["loss_mask"])
    return kept, torch.tensor([value or 0.0 for value in row["advantages"]], dtype=torch.float64)


def test_token_gradients_are_those_of_the_stored_advantages(model, rows):
    count = rows["loss_mask"].list.sum().sum()

    def loss(attempts):
        return sum((-masked(row)[1] * logprobs)[masked(row)[0]].sum() for row, logprobs, _ in attempts) / count

    alike(gradient(model, rows, PLAIN), plain_gradient(model, rows, loss))


def test_bonus_and_divergence_have_the_gradient_of_a_plain_pass(model, rows):
    recipe = replace(PLAIN, normalise="sequence", entropy_weight=0.3, kl="k3", kl_weight=0.5)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    count = rows["loss_mask"].list.sum().sum()

    def loss(attempts):
        total = 0.0
        for row, logprobs, entropy in attempts:
            kept, advantages = masked(row)
            with torch.no_grad():
                d = logprobs_apart(other.double(), row)[0] - logprobs.detach()
            d = d - logprobs + logprobs.detach()
            each = -advantages * logprobs + 0.5 * (torch.exp(d) - d - 1)
            total = total + each[kept].mean() / len(attempts) - 0.3 * entropy[kept].sum() / count
        return total

    wanted = plain_gradient(model, rows, loss)
    alike(gradient(model, rows, recipe, reference=other.float()), wanted)


@pytest.mark.parametrize("loss", ["clip", "sequence", "cispo", "opmd", "reinforce"])
@pytest.mark.parametrize("normalise", ["token", "sequence"])
def test_packs_and_rows_apart_make_the_same_step(model, rows, loss, normalise):
    recipe = replace(PLAIN, loss=loss, normalise=normalise, clip_low=0.2, clip_high=0.2, most_weight=2.0)
    samples = samples_of(rows, recipe)
    packed, apart = (
        [len(batch["token_ids"]) for batches in minibatches(samples, one, seed=(0,)) for batch in batches]
        for one in (recipe, replace(recipe, packed=False))
    )
    assert sum(packed) < sum(apart)
    alike(gradient(model, rows, recipe), gradient(model, rows, replace(recipe, packed=False)))


def test_attempts_without_advantage_are_not_computed_and_change_nothing(model, rows):
    samples = samples_of(rows, PLAIN)
    assert samples.idle.tolist() == [False] * 5 + [True]
    computed = [batch for batches in minibatches(samples, PLAIN, seed=(0,)) for batch in batches]
    everyone = [batch for batches in minibatches(samples, PLAIN, seed=(0,), every=True) for batch in batches]
    assert sum(len(one["entries"]) for one in computed) == sum(len(one["entries"]) for one in everyone) - 3


def test_small_packs_make_the_same_step(model, rows):
    alike(gradient(model, rows, replace(PLAIN, max_tokens=9)), gradient(model, rows, PLAIN))


def test_sure_tokens_are_left_out_of_loss_and_mean(rows):
    recipe = replace(PLAIN, most_probability=math.exp(-5.5))
    samples = samples_of(rows, recipe)
    said = samples.behaviour[samples.trained]
    assert 0 < len(said) < samples_of(rows, PLAIN).trained.sum()
    assert (said < -5.5).all()
    none = replace(PLAIN, most_probability=1e-6)
    assert (samples_of(rows, none).trained == samples_of(rows, PLAIN).trained).all()


def test_whitened_advantages_have_mean_0_and_variance_1(rows):
    samples = samples_of(rows, replace(PLAIN, whiten=True))
    seen = samples.advantages[samples.trained]
    assert seen.mean() == pytest.approx(0, abs=1e-12)
    assert seen.var(ddof=1) == pytest.approx(1, abs=1e-6)


def test_an_update_is_a_policy_and_the_same_again(policy, rows, tmp_path):
    recipe = replace(PLAIN, loss="clip", minibatch=3, epochs=2, most_weight=2.0, learning_rate=1e-3, most_norm=1.0)
    figures = [
        update_policy(
            rows, policy=policy, out=tmp_path / name, recipe=recipe, new_state=tmp_path / f"{name}.safetensors"
        )
        for name in ("one", "two")
    ]
    prints = {find_policy(name, policies=tmp_path).fingerprint for name in ("one", "two")}
    assert len(prints) == 1
    assert prints != {runs.read_policy(policy).fingerprint}
    assert figures[0] == figures[1]
    assert figures[0]["steps"] == 4
    assert figures[0]["zero_advantage_share"] == pytest.approx(1 / 6)
    assert figures[0]["kl"] > 0
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_the_seed_draws_dropout(policy, rows, tmp_path):
    dropping = tmp_path / "dropping"
    shutil.copytree(policy, dropping)
    config = json.loads((dropping / "config.json").read_text())
    (dropping / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.5}))
    losses = []
    for number, seed in enumerate([(0, 1), (0, 1), (0, 2)]):
        torch.manual_seed(number)
        out = tmp_path / f"out{number}"
        losses.append(update_policy(rows, policy=dropping, out=out, recipe=OnlineRecipe(), seed=seed)["loss"])
    assert losses[0] == losses[1] != losses[2]


def test_an_optimiser_goes_on_where_it_was(policy, rows, tmp_path):
    recipe = replace(PLAIN, learning_rate=1e-2)
    common = {"recipe": recipe}
    update_policy(rows, policy=policy, out=tmp_path / "a", new_state=tmp_path / "a.safetensors", **common)
    update_policy(rows, policy=tmp_path / "a", out=tmp_path / "b", state=tmp_path / "a.safetensors", **common)
    update_policy(rows, policy=policy, out=tmp_path / "both", recipe=replace(recipe, epochs=2))
    one, other = (
        parameters_to_vector(runs.load_model(runs.read_policy(tmp_path / name)).parameters()) for name in ("b", "both")
    )
    torch.testing.assert_close(one, other, rtol=0, atol=1e-7)
    (tmp_path / "a.safetensors").write_bytes(b"torn")
    with pytest.raises(BadModel, match="optimiser"):
        update_policy(rows, policy=tmp_path / "a", out=tmp_path / "c", state=tmp_path / "a.safetensors", **common)


def test_kl_without_a_reference_is_refused(policy: Path, rows, tmp_path):
    with pytest.raises(BadConfig, match="reference"):
        update_policy(rows, policy=policy, out=tmp_path / "x", recipe=replace(PLAIN, kl="k2", kl_weight=0.1))


def test_a_minibatch_whose_ratios_went_too_far_is_passed_over(policy, rows, tmp_path):
    recipe = replace(PLAIN, loss="clip", minibatch=3, epochs=3, learning_rate=1e-2)
    found = {}
    for most in (0.0, 1e-3):
        out = tmp_path / f"{most}"
        found[most] = update_policy(rows, policy=policy, out=out, recipe=replace(recipe, most_ratio=most))
    assert found[0.0]["passed_over_share"] == 0
    assert found[1e-3]["passed_over_share"] == 1  # already the first ratio, which is 1
    one, other = (runs.load_model(runs.read_policy(at)).state_dict() for at in (policy, tmp_path / "0.001"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("idle", [True, False])
def test_a_round_that_teaches_nothing_leaves_the_policy_as_it_is(policy, rows, tmp_path, idle):
    alike_rewards = rows.with_columns(advantages=pl.col("advantages").list.eval(pl.element() * 0))
    recipe = replace(PLAIN, idle=idle)
    state = tmp_path / "a.safetensors"
    found = update_policy(alike_rewards, policy=policy, out=tmp_path / "a", recipe=recipe, new_state=state)
    assert found["zero_advantage_share"] == 1
    one, other = (runs.load_model(runs.read_policy(folder)).state_dict() for folder in (policy, tmp_path / "a"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    update_policy(rows, policy=tmp_path / "a", out=tmp_path / "b", recipe=recipe, state=state)
