"""Heavy: torch. Policy-gradient losses of sampled tokens, by name. Tensors in, loss out; no model, no batch.

A token stands here once for every attempt it is trained in, so what attempts share has the sum of their gradients.
What a batch's loss is a mean over is in the tokens' weights (`trainers.online.batches.token_weights`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

MOST_LOG_RATIO = 10.0
"""Beyond it a ratio's logarithm is cut, and the token has no gradient (SPO)."""


class Tokens(NamedTuple):
    """`E` trained tokens of `R` attempts; log-probabilities in nats.

    logprobs:  `[E]` under the policy, with gradient.
    old:       `[E]` under the policy before the update: what ratios are to.
    behaviour: `[E]` when sampled, as the engine said.
    advantages, weights: `[E]`; the loss is the sum of weight times each token's loss.
    attempts:  `[E]` int64, from 0 to R - 1.
    reference: `[E]` under the policy that KL is to; None: no KL.
    entropy:   `[E]` of the policy where the token was drawn, with gradient; None: no bonus.
    """

    logprobs: Tensor
    old: Tensor
    behaviour: Tensor
    advantages: Tensor
    weights: Tensor
    attempts: Tensor
    reference: Tensor | None = None
    entropy: Tensor | None = None


@dataclass(frozen=True, slots=True)
class LossRule:
    """Which loss, and its constants.

    name:      key of LOSSES.
    clip_low, clip_high: a ratio's gain ends at 1 - clip_low and 1 + clip_high.
    dual_clip: most that a ratio counts for where the advantage is negative; 0: no bound.
    tau:       temperature of OPMD.
    most_weight: cap of the importance weight `old / behaviour`, which corrects for tokens that another policy or
        another engine's arithmetic sampled; 0: no correction.
    kl:        key of KL_ESTIMATORS, or none. kl_weight: of the divergence from the reference.
    entropy_weight: of the mean entropy, which is taken off the loss.
    most_ratio: mean ratio to `old` above which a minibatch is passed over; 0: none is.
    """

    name: str = "clip"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 0.0
    tau: float = 1.0
    most_weight: float = 0.0
    kl: str = "none"
    kl_weight: float = 0.0
    entropy_weight: float = 0.0
    most_ratio: float = 0.0


class Loss(NamedTuple):
    """total: with gradient. clipped: `[E]` bool, tokens whose gradient clipping cut off."""

    total: Tensor
    clipped: Tensor


def policy_loss(tokens: Tokens, rule: LossRule) -> Loss:
    """The loss of a batch, or of a part of one.

    The sum over tokens of `weight * (importance * loss + kl_weight * KL) - entropy_weight * entropy / tokens`, the
    entropy's mean being over this part: who cuts a batch in parts scales `entropy_weight` by each part's tokens.
    """
    each, clipped = LOSSES[rule.name](tokens, rule)
    if rule.most_weight:
        each = each * torch.exp(tokens.old - tokens.behaviour).clamp(max=rule.most_weight)
    if rule.kl_weight:
        each = each + rule.kl_weight * KL_ESTIMATORS[rule.kl](tokens.reference - tokens.logprobs)
    total = (tokens.weights * each).sum()
    if rule.entropy_weight:
        total = total - rule.entropy_weight * tokens.entropy.mean()
    return Loss(total, clipped)


def clip(tokens: Tokens, rule: LossRule) -> tuple[Tensor, Tensor]:
    """PPO's clipped surrogate, token by token; the bounds may differ (DAPO's clip-higher, TEMPO).

    Source: Schulman et al. (2017); Yu et al. (2025), DAPO; dual clip: Ye et al. (2020).
    """
    return _clipped(log_ratios(tokens), tokens.advantages, rule)


def sequence(tokens: Tokens, rule: LossRule) -> tuple[Tensor, Tensor]:
    """The same with the ratio of the attempt: the geometric mean of its tokens' ratios.

    Source: Zheng et al. (2025), GSPO. Of an attempt's tokens, those here count.
    """
    count = int(tokens.attempts.max()) + 1 if len(tokens.attempts) else 0
    zeros = tokens.logprobs.new_zeros(count)
    lengths = zeros.index_add(0, tokens.attempts, torch.ones_like(tokens.logprobs))
    means = zeros.index_add(0, tokens.attempts, tokens.logprobs - tokens.old) / lengths.clamp(min=1)
    log_ratio = means.clamp(-MOST_LOG_RATIO, MOST_LOG_RATIO)[tokens.attempts]
    return _clipped(log_ratio, tokens.advantages, rule)


def cispo(tokens: Tokens, rule: LossRule) -> tuple[Tensor, Tensor]:
    """`-min(ratio, 1 + clip_high) * A * log pi`, no gradient through the ratio: clipped tokens still teach.

    Source: MiniMax (2025), MiniMax-M1.
    """
    ratio = torch.exp(log_ratios(tokens)).detach()
    most = 1 + rule.clip_high
    return -ratio.clamp(max=most) * tokens.advantages * tokens.logprobs, ratio > most


def opmd(tokens: Tokens, rule: LossRule) -> tuple[Tensor, Tensor]:
    """`-A * log pi / (1 + tau)`: no ratio and no clipping.

    Source: R^3L (Shi et al., 2026).
    """
    return -tokens.advantages * tokens.logprobs / (1 + rule.tau), torch.zeros_like(tokens.logprobs, dtype=torch.bool)


def reinforce(tokens: Tokens, rule: LossRule) -> tuple[Tensor, Tensor]:
    """`-A * log pi`. Source: Williams (1992)."""
    del rule
    return -tokens.advantages * tokens.logprobs, torch.zeros_like(tokens.logprobs, dtype=torch.bool)


LOSSES: dict[str, Callable[[Tokens, LossRule], tuple[Tensor, Tensor]]] = {
    "clip": clip,
    "sequence": sequence,
    "cispo": cispo,
    "opmd": opmd,
    "reinforce": reinforce,
}
"""`[E]` losses, and which of them clipping has cut off."""

KL_ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "k1": lambda d: -d,
    "k2": lambda d: d.square() / 2,
    "k3": lambda d: torch.exp(d) - d - 1,
}
"""Of `d = log pi_ref - log pi` at tokens that pi drew; k1 has a gradient of mean 0, k2 that of the divergence.
Source: Schulman (2020), Approximating KL divergence."""


def log_ratios(tokens: Tokens) -> Tensor:
    """`[E]`: log pi - log pi_old, within MOST_LOG_RATIO."""
    return (tokens.logprobs - tokens.old).clamp(-MOST_LOG_RATIO, MOST_LOG_RATIO)


def _clipped(log_ratio: Tensor, advantages: Tensor, rule: LossRule) -> tuple[Tensor, Tensor]:
    ratio = torch.exp(log_ratio)
    bounded = ratio.clamp(1 - rule.clip_low, 1 + rule.clip_high)
    free = ratio.clamp(max=rule.dual_clip) if rule.dual_clip else ratio
    loss = -torch.minimum(free * advantages, bounded * advantages)
    gain, loss_side = ratio > 1 + rule.clip_high, ratio < 1 - rule.clip_low
    if rule.dual_clip:
        loss_side |= ratio > rule.dual_clip
    return loss, ((advantages > 0) & gain) | ((advantages < 0) & loss_side)
