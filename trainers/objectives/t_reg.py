"""Heavy: torch. T-REG: a preference loss, and a pull of each token's log-probability along its reward."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


class Regularised(NamedTuple):
    """Of `P` pairs: loss, with gradient; preference, weight, chosen and rejected (rewards of the answers), without."""

    loss: Tensor
    preference: Tensor
    weight: Tensor
    chosen: Tensor
    rejected: Tensor


def token_rewards(better: Tensor, worse: Tensor) -> Tensor:
    """`sigma(better - worse) - 0.5`, exactly 0 where both are equal; see `pipeline.credit.t_reg.token_rewards`."""
    return 0.5 * torch.tanh(0.5 * (better - worse))


def t_reg(
    chosen: Tensor,
    rejected: Tensor,
    chosen_pull: Tensor,
    rejected_pull: Tensor,
    *,
    beta: float,
    alpha: float = 0.25,
    gamma: float = 0.0,
    weighted: bool = True,
) -> Regularised:
    """The loss of each pair, as `pipeline.metrics.preference.t_reg` has it.

    Args:
        chosen, rejected: `[P]`. Over DPO: log-ratio of policy and reference, summed over the answer. Over SimPO: mean
            log-probability of its tokens.
        chosen_pull, rejected_pull: `[P]`, sum over the answer's tokens of reward times log-probability.
        beta: strength of the pull to the reference, and of the regulariser.
        alpha: weight of the regulariser. With 0 the loss is the preference loss, bit for bit.
        gamma: margin that SimPO asks for, in units of its rewards.
        weighted: the regulariser has the factor of the preference loss's own gradient; else 1, an ablation.
    """
    d = beta * (chosen - rejected) - gamma
    preference = -logsigmoid(d)
    weight = torch.sigmoid(-d).detach() if weighted else torch.ones_like(d)
    loss = preference
    if alpha:
        loss = preference - alpha * weight * beta * (chosen_pull + rejected_pull)
    rewards = (beta * side.detach() for side in (chosen, rejected))
    return Regularised(loss, preference.detach(), weight, *rewards)
