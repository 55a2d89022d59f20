"""Heavy: torch. InT: the right prefix and the one step written in place of the first wrong one are cloned."""

from __future__ import annotations

import torch
from torch import Tensor

from trainers.objectives.sft import weighted_likelihood

IGNORED = -100


def label_weights(labels: Tensor) -> Tensor:
    """Weight 1 where a label stands, 0 where it is -100."""
    return (labels != IGNORED).to(torch.float32)


def intervention_loss(logprobs: Tensor, labels: Tensor) -> Tensor:
    """Sum over labelled tokens of `-log pi(token | all before it)`, in nats; no end token is added.

    Args:
        logprobs: `[T]`, of each token of a row; what stands where no label does is not looked at.
        labels: `[T]` int64, -100 where not trained.

    Source: InT (Yang et al., 2026). The prefix is trained up to, not with, the wrong step.
    """
    kept = labels != IGNORED
    return weighted_likelihood(logprobs[kept], label_weights(labels)[kept])
