"""Heavy: torch. Likelihood of tokens, each with its weight: SFT, MALT's roles, R3L's offline form."""

from __future__ import annotations

from torch import Tensor


def weighted_likelihood(logprobs: Tensor, weights: Tensor) -> Tensor:
    """Sum over tokens of `-weight * log pi(token)`, in nats; who calls divides by the weights of the whole step.

    A token that several rows share has the sum of their weights.

    Args:
        logprobs: `[U]`, of the trained tokens.
        weights: `[U]`, as long.
    """
    return -(weights * logprobs).sum()
