"""Heavy: torch. TDPO: preference with the divergence along each answer, position by position."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from trainers.objectives.dpo import Preferred


def position_kl(reference: Tensor, policy: Tensor) -> Tensor:
    """`[...]`: KL(reference || policy) of each position, in nats.

    Args:
        reference, policy: `[..., V]` logits.
    """
    logs = torch.log_softmax(reference, dim=-1)
    return (logs.exp() * (logs - torch.log_softmax(policy, dim=-1))).sum(dim=-1)


def tdpo(
    chosen: Tensor,
    rejected: Tensor,
    chosen_kl: Tensor,
    rejected_kl: Tensor,
    *,
    beta: float,
    alpha: float | None = 0.5,
) -> Preferred:
    """The loss of each pair, as `pipeline.metrics.preference.tdpo` has it.

    TDPO2 takes `alpha` times the difference of divergences off the margin, with no gradient through the chosen one's;
    TDPO1 all of it, with gradient.

    Args:
        chosen, rejected: `[P]` log-ratios, summed over the answer.
        chosen_kl, rejected_kl: `[P]`, KL(reference || policy) summed over the answer's positions.
        beta: strength of the pull to the reference.
        alpha: of TDPO2. None: TDPO1.
    """
    apart = rejected_kl - chosen_kl if alpha is None else alpha * (rejected_kl - chosen_kl.detach())
    logits = chosen - rejected - apart
    rewards = (beta * (ratio + kl).detach() for ratio, kl in ((chosen, chosen_kl), (rejected, rejected_kl)))
    return Preferred(-logsigmoid(beta * logits), *rewards)
