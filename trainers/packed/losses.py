"""Heavy: torch. The loss of a pack under each objective, from the log-probabilities of its trained tokens.

Glue between packs and `trainers.objectives`: gathers a shared token for every row it stands in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from trainers.objectives.dpo import dpo
from trainers.objectives.sft import weighted_likelihood
from trainers.objectives.t_reg import t_reg
from trainers.objectives.tdpo import tdpo
from trainers.packed.rows import Batch
from trainers.prm_loss import prm_loss


class Scored(NamedTuple):
    """total: loss summed over the pack's items, with gradient. sums: figures to log, each a sum and its count."""

    total: Tensor
    sums: dict[str, tuple[Tensor, Tensor]]


Loss = Callable[[Batch, Tensor], Scored]
"""Of a batch and the `[U]` log-probabilities of its `needed` tokens."""


def likelihood_loss() -> Loss:
    """Weighted negative log-likelihood; items are the weights' sizes."""

    def score(batch: Batch, logprobs: Tensor) -> Scored:
        return Scored(weighted_likelihood(logprobs, batch["weights"]), {})

    return score


def label_loss() -> Loss:
    """That of a process reward model; items are labels. Takes `[U, 2]` logits in place of log-probabilities."""

    def score(batch: Batch, logits: Tensor) -> Scored:
        found = prm_loss(logits[batch["entries"]], batch["labels"])
        return Scored(found.total, {"mean_token_accuracy": (found.right, batch["items"])})

    return score


def dpo_loss(
    *,
    beta: float,
    loss_type: str = "sigmoid",
    label_smoothing: float = 0.0,
    sft_weight: float = 0.0,
    mixed: Callable[[Tensor], Tensor] = lambda weights: weights,
) -> Loss:
    """DPO and its kin; items are pairs. TDPO reads `kl`, `[U]`, of the batch.

    Args:
        beta: strength of the pull to the reference.
        loss_type: of `trainers.objectives.dpo`, or tdpo1 or tdpo2.
        label_smoothing: chance that a pair is the wrong way round.
        sft_weight: of the chosen answers' likelihood, a mean over the pack's chosen tokens.
        mixed: what the pairs' weights are by now.
    """

    def score(batch: Batch, logprobs: Tensor) -> Scored:
        entries = logprobs[batch["entries"]]
        sides = [_by_row(batch, entries - batch["reference"][batch["entries"]])[rows] for rows in batch["pairs"].T]
        if loss_type.startswith("tdpo"):
            kls = [_by_row(batch, batch["kl"][batch["entries"]])[rows] for rows in batch["pairs"].T]
            found = tdpo(*sides, *kls, beta=beta, alpha=None if loss_type == "tdpo1" else 0.5)
        else:
            tokens = [batch["lengths"][rows] for rows in batch["pairs"].T]
            found = dpo(
                *sides,
                beta=beta,
                loss_type=loss_type,
                label_smoothing=label_smoothing,
                chosen_tokens=tokens[0],
                rejected_tokens=tokens[1],
            )
        total = (mixed(batch["weights"]) * found.loss).sum() + sft_weight * _chosen_likelihood(batch, entries)
        return Scored(total, reward_sums(found.chosen, found.rejected) | kl_sums(batch, logprobs))

    return score


def t_reg_loss(
    *,
    beta: float,
    alpha: float = 0.25,
    base_loss: str = "dpo",
    gamma: float = 0.0,
    weighted: bool = True,
    sft_weight: float = 0.0,
) -> Loss:
    """T-REG over DPO or SimPO; items are pairs."""

    def score(batch: Batch, logprobs: Tensor) -> Scored:
        entries = logprobs[batch["entries"]]
        if base_loss == "simpo":
            of_row = _by_row(batch, entries) / batch["lengths"].clamp(min=1)
        else:
            of_row = _by_row(batch, entries - batch["reference"][batch["entries"]])
        pulls = _by_row(batch, batch["entry_rewards"] * entries)
        chosen, rejected = batch["pairs"].T
        found = t_reg(
            of_row[chosen],
            of_row[rejected],
            pulls[chosen],
            pulls[rejected],
            beta=beta,
            alpha=alpha,
            gamma=gamma,
            weighted=weighted,
        )
        total = (batch["weights"] * found.loss).sum() + sft_weight * _chosen_likelihood(batch, entries)
        count = torch.tensor(float(len(chosen)), device=logprobs.device)
        sums = {"preference_loss": (found.preference.sum(), count)}
        return Scored(total, sums | reward_sums(found.chosen, found.rejected) | kl_sums(batch, logprobs))

    return score


def reward_sums(chosen: Tensor, rejected: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """TRL's figures of implicit rewards; a tie is not ranked right."""
    count = torch.tensor(float(len(chosen)), device=chosen.device)
    figures = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": (chosen > rejected).float(),
    }
    return {name: (values.sum(), count) for name, values in figures.items()}


def kl_sums(batch: Batch, logprobs: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """KL(reference || policy) a token in nats, estimated on the rows: mean of `ratio - 1 - log ratio`, never negative.

    Unbiased where the reference sampled the rows (Schulman's third estimator).
    """
    if "reference" not in batch:
        return {}
    ratio = logprobs.detach() - batch["reference"]
    return {"kl": ((ratio.exp() - 1 - ratio).sum(), torch.tensor(float(len(ratio)), device=ratio.device))}


def _by_row(batch: Batch, entries: Tensor) -> Tensor:
    """`[R]`: numbers of trained tokens summed over each row."""
    return torch.zeros(len(batch["lengths"]), dtype=entries.dtype, device=entries.device).index_add(
        0, batch["entry_rows"], entries
    )


def _chosen_likelihood(batch: Batch, entries: Tensor) -> Tensor:
    """Mean negative log-likelihood over the chosen answers' tokens, times the pack's pairs: a mean over tokens within
    a pack, over pairs between packs."""
    chosen = batch["pairs"][:, 0]
    tokens = batch["lengths"][chosen].sum()
    return -_by_row(batch, entries)[chosen].sum() / tokens.clamp(min=1) * len(chosen)
