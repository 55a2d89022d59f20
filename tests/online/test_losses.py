"""Losses of online RL against straightforward float64 arithmetic, against autograd, and against TRL's own loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.errors import BadConfig
from trainers.online.batches import token_weights
from trainers.online.losses import KL_ESTIMATORS, LOSSES, LossRule, Tokens, policy_loss
from trainers.online.recipe import KL_NAMES, LOSS_NAMES

LENGTHS = [3, 1, 4]
ATTEMPTS = torch.repeat_interleave(torch.arange(3), torch.tensor(LENGTHS))


@pytest.fixture
def tokens() -> Tokens:
    """Three attempts whose policy moved far enough to be clipped on both sides."""
    draw = np.random.default_rng(0)
    old = torch.from_numpy(-draw.uniform(0.1, 2, 8))
    moved = torch.tensor([0.5, -0.5, 0.05, 0.5, -0.5, 0.01, 0.4, -0.05], dtype=torch.float64)
    return Tokens(
        logprobs=(old + moved).requires_grad_(),
        old=old,
        behaviour=old - 0.1,
        advantages=torch.tensor([1.0, 1.0, 1.0, -2.0, 0.5, -0.5, -0.5, 0.5], dtype=torch.float64),
        weights=torch.from_numpy(token_weights(np.array(LENGTHS), normalise="sequence"))[ATTEMPTS],
        attempts=ATTEMPTS,
        reference=old - 0.3,
        entropy=torch.linspace(0.1, 0.8, 8, dtype=torch.float64),
    )


def one_by_one(tokens: Tokens, rule: LossRule) -> tuple[float, list[float]]:
    """Loss and its gradient by the formulas, a token at a time in Python's floats."""
    columns = [column.tolist() for column in tokens[:6]]
    total, gradient = 0.0, [0.0] * len(columns[0])
    rows = list(zip(*columns, tokens.reference.tolist(), strict=True))
    for place, (logprob, old, behaviour, advantage, weight, attempt, reference) in enumerate(rows):
        mates = [row for row in rows if row[5] == attempt]
        if rule.name == "sequence":
            ratio = math.exp(sum(row[0] - row[1] for row in mates) / len(mates))
        else:
            ratio = math.exp(logprob - old)
        within = 1 - rule.clip_low <= ratio <= 1 + rule.clip_high
        bounded = min(max(ratio, 1 - rule.clip_low), 1 + rule.clip_high)
        free = min(ratio, rule.dual_clip) if rule.dual_clip else ratio
        correction = min(math.exp(old - behaviour), rule.most_weight) if rule.most_weight else 1.0
        slope: dict[int, float] = {}
        if rule.name in ("clip", "sequence"):
            loss = -min(free * advantage, bounded * advantage)
            moves = within or free * advantage < bounded * advantage
            moves = moves and not (rule.dual_clip and ratio > rule.dual_clip)
            own = -advantage * ratio if moves else 0.0
            several = [n for n, row in enumerate(rows) if row[5] == attempt]
            slope = {n: own / len(several) for n in several} if rule.name == "sequence" else {place: own}
        elif rule.name == "cispo":
            held = min(ratio, 1 + rule.clip_high)
            loss, slope = -held * advantage * logprob, {place: -held * advantage}
        else:
            scale = 1 + rule.tau if rule.name == "opmd" else 1.0
            loss, slope = -advantage * logprob / scale, {place: -advantage / scale}
        total += weight * correction * loss
        for n, value in slope.items():
            gradient[n] += weight * correction * value
        if rule.kl_weight:
            d = reference - logprob
            total += weight * rule.kl_weight * {"k1": -d, "k2": d * d / 2, "k3": math.exp(d) - d - 1}[rule.kl]
            gradient[place] += weight * rule.kl_weight * {"k1": 1.0, "k2": -d, "k3": 1 - math.exp(d)}[rule.kl]
    return total - rule.entropy_weight * float(tokens.entropy.mean()), gradient


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(LossRule("clip", 0.2, 0.28), id="clip-higher"),
        pytest.param(LossRule("clip", 0.2, 0.2, dual_clip=1.5), id="dual clip"),
        pytest.param(LossRule("clip", 0.2, 0.2, most_weight=1.05), id="importance weights cut"),
        pytest.param(LossRule("clip", 0.2, 0.2, most_weight=2.0, kl="k3", kl_weight=0.1), id="KL by k3"),
        pytest.param(LossRule("clip", 0.2, 0.2, kl="k1", kl_weight=0.1), id="KL by k1"),
        pytest.param(LossRule("clip", 0.2, 0.2, kl="k2", kl_weight=0.1, entropy_weight=0.01), id="KL by k2, entropy"),
        pytest.param(LossRule("sequence", 0.05, 0.05), id="GSPO"),
        pytest.param(LossRule("cispo", clip_high=0.28), id="CISPO"),
        pytest.param(LossRule("opmd", tau=1.0), id="OPMD"),
        pytest.param(LossRule("reinforce"), id="REINFORCE"),
    ],
)
def test_a_loss_and_its_gradient_are_those_of_its_formula(tokens, rule):
    loss = policy_loss(tokens, rule)
    loss.total.backward()
    total, gradient = one_by_one(tokens, rule)
    assert loss.total.item() == pytest.approx(total, abs=1e-12)
    np.testing.assert_allclose(tokens.logprobs.grad.numpy(), gradient, atol=1e-12)


@pytest.mark.parametrize("dual_clip", [0.0, 1.5])
def test_a_clipped_token_is_one_without_gradient(tokens, dual_clip):
    loss = policy_loss(tokens, LossRule("clip", 0.2, 0.28, dual_clip=dual_clip))
    loss.total.backward()
    assert 0 < loss.clipped.sum() < 8
    np.testing.assert_array_equal(loss.clipped.numpy(), tokens.logprobs.grad.numpy() == 0)


def test_a_ratio_beyond_all_bounds_stays_a_number(tokens):
    far = tokens._replace(logprobs=(tokens.old + 500).requires_grad_(), advantages=-torch.ones(8, dtype=torch.float64))
    assert math.isfinite(policy_loss(far, LossRule("clip")).total.item())


@pytest.mark.parametrize(
    ("normalise", "constant", "weights"),
    [
        pytest.param("token", 0, [1 / 8, 1 / 8, 1 / 8], id="over all tokens"),
        pytest.param("sequence", 0, [1 / 9, 1 / 3, 1 / 12], id="over each attempt's"),
        pytest.param("constant", 10, [1 / 30, 1 / 30, 1 / 30], id="over a constant"),
    ],
)
def test_what_a_loss_is_a_mean_over(normalise, constant, weights):
    found = token_weights(np.array(LENGTHS), normalise=normalise, constant=constant)
    np.testing.assert_allclose(found, weights)


def test_recipes_name_the_losses_there_are():
    assert tuple(LOSSES) == LOSS_NAMES
    assert ("none", *KL_ESTIMATORS) == KL_NAMES


def test_k3_is_never_negative_and_0_where_both_agree():
    d = torch.linspace(-3, 3, 7)
    assert (KL_ESTIMATORS["k3"](d) >= 0).all()
    assert KL_ESTIMATORS["k3"](torch.zeros(1)).item() == 0


def test_a_recipe_with_kl_and_no_weight_is_refused():
    from trainers.online.recipe import OnlineRecipe

    with pytest.raises(BadConfig, match="kl_weight"):
        OnlineRecipe(kl="k3")
