"""Heavy: torch. Direct preference optimisation and its kin, of log-ratios already summed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

BY_TOKEN = ("ipo", "sigmoid_norm")
"""Loss types that divide the log-ratio of an answer by its tokens."""
LOSS_TYPES = ("sigmoid", "robust", "hinge", *BY_TOKEN)


class Preferred(NamedTuple):
    """loss: `[P]`, with gradient. chosen, rejected: `[P]` implicit rewards, without."""

    loss: Tensor
    chosen: Tensor
    rejected: Tensor


def dpo(
    chosen: Tensor,
    rejected: Tensor,
    *,
    beta: float,
    loss_type: str = "sigmoid",
    label_smoothing: float = 0.0,
    chosen_tokens: Tensor | None = None,
    rejected_tokens: Tensor | None = None,
) -> Preferred:
    """The loss of each pair, as `pipeline.metrics.preference.dpo` has it.

    A pair whose prompt holds the right steps and whose answers are one step each makes it Step-DPO.

    Args:
        chosen, rejected: `[P]`, log pi(answer | prompt) less log pi_ref(answer | prompt), in nats.
        beta: strength of the pull to the reference.
        loss_type: word of LOSS_TYPES.
        label_smoothing: chance that a pair is the wrong way round, for sigmoid and robust.
        chosen_tokens, rejected_tokens: `[P]`, tokens of the answers, for the losses BY_TOKEN.

    Raises:
        ValueError: no such loss, or one by token without the tokens.
    """
    smoothing, d = label_smoothing, chosen - rejected
    if loss_type in BY_TOKEN:
        if chosen_tokens is None or rejected_tokens is None:
            raise ValueError(f"{loss_type} needs the tokens of both answers")
        d = chosen / chosen_tokens.clamp(min=1) - rejected / rejected_tokens.clamp(min=1)
    match loss_type:
        case "sigmoid" if smoothing:
            loss = -(1 - smoothing) * logsigmoid(beta * d) - smoothing * logsigmoid(-beta * d)
        case "robust":
            loss = (-(1 - smoothing) * logsigmoid(beta * d) + smoothing * logsigmoid(-beta * d)) / (1 - 2 * smoothing)
        case "hinge":
            loss = torch.relu(1 - beta * d)
        case "ipo":
            loss = (d - 1 / (2 * beta)) ** 2
        case "sigmoid" | "sigmoid_norm":
            loss = -logsigmoid(beta * d)
        case _:
            raise ValueError(f"{loss_type!r} is none of {', '.join(LOSS_TYPES)}")
    return Preferred(loss, beta * chosen.detach(), beta * rejected.detach())
