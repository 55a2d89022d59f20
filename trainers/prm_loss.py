"""Heavy: torch. The loss of a process reward model: tensors in, a number out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


class PrmLoss(NamedTuple):
    """Scalars. total: nats, summed over the labels. right: how many labels the model puts on their side of one half,
    without a gradient; a label of just one half counts as right. labels: how many there are.
    """

    total: Tensor
    right: Tensor
    labels: Tensor


def prm_loss(logits: Tensor, labels: Tensor) -> PrmLoss:
    """Cross-entropy of the two classes against hard or soft labels.

    With `z = logits[..., 1] - logits[..., 0]`, the chance that a step is right is `sigmoid(z)`, and the loss is the
    sum of `-y log sigmoid(z) - (1 - y) log sigmoid(-z)` over the labels there are.

    Args:
        logits: `[..., 2]`, classes wrong and right.
        labels: `[...]` float in [0, 1] at the last token of a step; NaN elsewhere and where undecided.

    Source: Let's Verify Step by Step (Lightman et al., 2023); soft labels as OmegaPRM (Luo et al., 2024).
    """
    known = ~torch.isnan(labels)
    margin, wanted = (logits[..., 1] - logits[..., 0])[known].float(), labels[known].float()
    side = (margin > 0) == (wanted > 0.5)
    with torch.no_grad():
        right = (side | (wanted == 0.5)).float().sum()
    total = binary_cross_entropy_with_logits(margin, wanted, reduction="sum")
    return PrmLoss(total, right, known.sum())
