"""Heavy: torch. The loss of a process reward model: tensors in, a number out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


class PrmLoss(NamedTuple):
    """loss: nats a labelled step. accuracy: share of the labelled steps that the model puts on the label's side of
    one half; a label of just one half counts as right. Both are scalars, the accuracy without a gradient.
    """

    loss: Tensor
    accuracy: Tensor


def prm_loss(logits: Tensor, labels: Tensor) -> PrmLoss:
    """Cross-entropy of the two classes against hard or soft labels.

    With `z = logits[..., 1] - logits[..., 0]`, the chance that a step is right is `sigmoid(z)`, and the loss is the
    mean of `-y log sigmoid(z) - (1 - y) log sigmoid(-z)` over the labels there are.

    Args:
        logits: `[B, T, 2]`, classes wrong and right.
        labels: `[B, T]` float in [0, 1] at the last token of a step; NaN elsewhere and where undecided.

    Source: Let's Verify Step by Step (Lightman et al., 2023); soft labels as OmegaPRM (Luo et al., 2024).
    """
    known = ~torch.isnan(labels)
    margin, wanted = (logits[..., 1] - logits[..., 0])[known].float(), labels[known].float()
    side = (margin > 0) == (wanted > 0.5)
    with torch.no_grad():
        accuracy = (side | (wanted == 0.5)).float().sum() / known.sum().clamp(min=1)
    total = binary_cross_entropy_with_logits(margin, wanted, reduction="sum")
    return PrmLoss(total / known.sum().clamp(min=1), accuracy)
