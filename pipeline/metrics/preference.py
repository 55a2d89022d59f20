"""Losses and figures of preference pairs, as numbers: DPO and its kin, and T-REG.

The reference that trainers' objectives are tested against; float64, no tensors. Does not score tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from pipeline.credit.columns import ZERO
from pipeline.credit.ragged import row_sums, rows_of
from pipeline.errors import BadConfig

LOSS_TYPES = ("sigmoid", "robust", "hinge", "ipo", "sigmoid_norm", "step_dpo", "tdpo1", "tdpo2")
"""TRL's words; step_dpo is sigmoid over one step; tdpo1 and tdpo2 need the KL of every position."""
BY_TOKEN = ("ipo", "sigmoid_norm")
"""Loss types that divide the log-ratio of a response by its number of tokens."""
BASE_LOSSES = ("dpo", "simpo")
WEIGHTINGS = ("dpo", "static")
"""What T-REG's regulariser is multiplied by: the factor in DPO's own gradient, or 1."""


@dataclass(frozen=True, slots=True)
class PreferenceParams:
    """Parameters of DPO and its kin.

    loss_type: word of LOSS_TYPES.
    beta: strength of the pull to the reference. None: the published one, 0.5 for step_dpo, 0.1 for the others.
    label_smoothing: chance that a pair is the wrong way round, used by `sigmoid` and `robust`.
    alpha: weight of the difference of divergences in tdpo2.

    Raises:
        BadConfig: no such loss type, or `robust` with a label smoothing that is not below 0.5.
    """

    loss_type: str = "sigmoid"
    beta: float | None = None
    label_smoothing: float = 0.0
    alpha: float = 0.5

    def __post_init__(self) -> None:
        if self.loss_type not in LOSS_TYPES:
            raise BadConfig(f"loss type {self.loss_type!r} is not known", remedy=f"use one of {LOSS_TYPES}")
        if self.loss_type == "robust" and not 0 <= self.label_smoothing < 0.5:
            said = f"label smoothing {self.label_smoothing} of the robust loss is not in [0, 0.5)"
            raise BadConfig(said, remedy="give one below 0.5; at 0.5 a pair says nothing")

    @property
    def strength(self) -> float:
        """The beta in force."""
        if self.beta is not None:
            return self.beta
        return 0.5 if self.loss_type == "step_dpo" else 0.1


@dataclass(frozen=True, slots=True)
class TRegParams:
    """Parameters of T-REG.

    beta: strength of the pull to the reference. alpha: weight of the regulariser; 0.1, 0.25 and 0.5 were tried.
    sequence_weighting: word of WEIGHTINGS. base_loss: word of BASE_LOSSES.
    gamma: margin that `simpo` asks for, in units of its rewards.

    Raises:
        BadConfig: no such weighting or base loss.
    """

    beta: float = 0.1
    alpha: float = 0.25
    sequence_weighting: str = "dpo"
    base_loss: str = "dpo"
    gamma: float = 0.0

    def __post_init__(self) -> None:
        for name, known in (("sequence_weighting", WEIGHTINGS), ("base_loss", BASE_LOSSES)):
            if getattr(self, name) not in known:
                raise BadConfig(f"t_reg {name} {getattr(self, name)!r} is not known", remedy=f"use one of {known}")


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """The chosen or the rejected response of each of `P` pairs, token after token.

    policy:    `[T]` float64, natural log-probability of each token under the policy; NaN where unknown.
    offsets:   `[P + 1]` int64, where each response begins.
    reference: `[T]` float64, under the reference model. None: not needed.
    trained:   `[T]` bool, False for tokens out of the loss, such as a prefix both sides share. None: all are in it.
    """

    policy: np.ndarray
    offsets: np.ndarray
    reference: np.ndarray | None = None
    trained: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name in ("policy", "reference", "trained"):
            column = getattr(self, name)
            if column is not None and len(column) != self.offsets[-1]:
                raise ValueError(f"{name} has {len(column)} entries, not one for each of {self.offsets[-1]} tokens")

    def counts(self) -> np.ndarray:
        """`[P]` int64: trained tokens of each response."""
        return row_sums(np.ones(len(self.policy)) if self.trained is None else self.trained, self.offsets).astype(int)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """`[P]` float64: sum of a column over the trained tokens of each response; NaN where one of them is."""
        kept = values if self.trained is None else np.where(self.trained, values, 0.0)
        return row_sums(kept, self.offsets)

    def spread(self, values: np.ndarray) -> np.ndarray:
        """`[T]`: a number a pair, given to each of its tokens."""
        return values[rows_of(self.offsets)]

    def ratios(self) -> np.ndarray:
        """`[P]` float64: log-probability of each response under the policy less that under the reference."""
        with np.errstate(invalid="ignore"):
            return self.sums(self.policy - self.reference)


class Preference(NamedTuple):
    """loss, rewards_chosen, rewards_rejected: `[P]` float64; NaN where a log-probability is unknown."""

    loss: np.ndarray
    rewards_chosen: np.ndarray
    rewards_rejected: np.ndarray


def dpo(chosen: Side, rejected: Side, params: PreferenceParams = PreferenceParams()) -> Preference:
    """The loss of each pair, and the implicit rewards of both sides: beta times the log-ratio.

    With d the log-ratio of chosen less that of rejected, e the label smoothing and, for `ipo` and `sigmoid_norm`, each
    log-ratio divided by its tokens (a response without tokens counts 0):

    | loss type            | loss                                                       |
    |----------------------|------------------------------------------------------------|
    | sigmoid, step_dpo    | (1 - e) * -log sigma(beta d) + e * -log sigma(-beta d)     |
    | robust               | (-(1 - e) log sigma(beta d) + e log sigma(-beta d)) / (1 - 2e) |
    | hinge                | max(0, 1 - beta d)                                         |
    | ipo                  | (d - 1 / (2 beta))^2                                       |
    | sigmoid_norm         | -log sigma(beta d)                                         |

    Args:
        chosen, rejected: `P` pairs with log-probabilities under the reference.
        params: which loss.

    Returns:
        The rewards are of summed log-ratios under every loss type.

    Raises:
        BadConfig: a loss type that needs the KL of every position.

    Source: DPO (Rafailov et al., 2023), IPO (Azar et al., 2023), robust DPO (Chowdhury et al., 2024), Step-DPO (Lai
        et al., 2024), as TRL computes them.
    """
    if params.loss_type.startswith("tdpo"):
        raise BadConfig(f"{params.loss_type} needs the KL of every position", remedy="call `tdpo` with it")
    beta, (won, lost) = params.strength, (chosen.ratios(), rejected.ratios())
    d = won - lost
    if params.loss_type in BY_TOKEN:
        d = won / np.maximum(chosen.counts(), 1) - lost / np.maximum(rejected.counts(), 1)
    right, wrong, smoothing = _minus_log_sigma(beta * d), _minus_log_sigma(-beta * d), params.label_smoothing
    match params.loss_type:
        case "sigmoid" if smoothing:
            loss = (1 - smoothing) * right + smoothing * wrong
        case "robust":
            loss = ((1 - smoothing) * right - smoothing * wrong) / (1 - 2 * smoothing)
        case "hinge":
            loss = np.maximum(0.0, 1 - beta * d)
        case "ipo":
            loss = (d - 1 / (2 * beta)) ** 2
        case _:
            loss = right
    return Preference(loss, beta * won, beta * lost)


def tdpo(
    chosen: tuple[np.ndarray, np.ndarray],
    rejected: tuple[np.ndarray, np.ndarray],
    params: PreferenceParams = PreferenceParams("tdpo2"),
) -> Preference:
    """DPO with the divergence of policy and reference along each response.

    Args:
        chosen, rejected: of each response the summed log-ratio and the sequential KL, the sum over positions of
            KL(reference || policy) over the vocabulary; `[P]` float64 each.
        params: tdpo1 takes the whole difference of divergences off the margin, tdpo2 alpha times it (in tdpo2 the
            chosen one's carries no gradient).

    Returns:
        The rewards are beta times log-ratio plus KL, for both loss types.

    Raises:
        BadConfig: a loss type that is neither.

    Source: TDPO (Zeng et al., 2024) and its code.
    """
    if not params.loss_type.startswith("tdpo"):
        raise BadConfig(f"{params.loss_type!r} is no loss type of TDPO", remedy="use tdpo1 or tdpo2")
    (won, won_kl), (lost, lost_kl) = chosen, rejected
    beta, share = params.strength, 1.0 if params.loss_type == "tdpo1" else params.alpha
    logits = won - lost - share * (lost_kl - won_kl)
    return Preference(_minus_log_sigma(beta * logits), beta * (won + won_kl), beta * (lost + lost_kl))


def reward_metrics(found: Preference, *, beta: float) -> dict[str, float]:
    """What trainers log of implicit rewards, by their names: means over the pairs whose rewards are known.

    `rewards/accuracies` is the share of pairs whose chosen reward is the greater; a tie counts as wrong. NaN where no
    pair is known.
    """
    margins = found.rewards_chosen - found.rewards_rejected
    known = ~np.isnan(margins)
    return {
        "rewards/chosen": mean_known(found.rewards_chosen[known]),
        "rewards/rejected": mean_known(found.rewards_rejected[known]),
        "rewards/margins": mean_known(margins),
        "rewards/accuracies": mean_known(np.where(known, margins > beta * ZERO, np.nan)),
    }


def mean_known(values: np.ndarray) -> float:
    """Mean of the values that are no NaN; NaN where there is none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


class TReg(NamedTuple):
    """T-REG of `P` pairs.

    rewards:  of chosen and rejected, `[P]` float64; without the margin of simpo.
    preference_loss, weight, total: `[P]` float64.
    regularisers: of chosen and rejected, `[P]` float64.
    gradients: of the total by the policy's log-probability of each token of chosen and rejected, `[T]` float64 each;
        the weight is held constant, tokens out of the loss have 0.
    """

    rewards: tuple[np.ndarray, np.ndarray]
    preference_loss: np.ndarray
    weight: np.ndarray
    regularisers: tuple[np.ndarray, np.ndarray]
    total: np.ndarray
    gradients: tuple[np.ndarray, np.ndarray]


def t_reg(
    chosen: Side,
    rejected: Side,
    token_rewards: tuple[np.ndarray, np.ndarray],
    params: TRegParams = TRegParams(),
) -> TReg:
    """A preference loss, and a pull of each token's log-probability along its reward.

    With s the reward of a response (dpo: beta times the log-ratio; simpo: beta times the mean log-probability, 0 for
    one without tokens), d the chosen s less the rejected, less gamma under simpo, and r the reward of a token:
    `preference = -log sigma(d)`, `regulariser = -sum(beta * r * log pi)`, `weight = sigma(-d)` or 1 (static), and
    `total = preference + alpha * weight * (regulariser of chosen + of rejected)`.

    Args:
        chosen, rejected: `P` pairs; simpo needs no reference.
        token_rewards: of the tokens of chosen and of rejected, see `pipeline.credit.t_reg.token_rewards`.
        params: weights and base loss.

    Source: T-REG (Zhou et al., 2024), from its text; no code is to be had.
    """
    beta, by_mean, sides = params.beta, params.base_loss == "simpo", (chosen, rejected)
    per_token = [beta / (np.maximum(side.counts(), 1) if by_mean else np.ones(len(side.counts()))) for side in sides]
    scores = [
        scale * (side.sums(side.policy) if by_mean else side.ratios())
        for side, scale in zip(sides, per_token, strict=True)
    ]
    d = scores[0] - scores[1] - (params.gamma if by_mean else 0.0)
    p = expit(-d)
    weight = np.where(np.isnan(p), np.nan, 1.0) if params.sequence_weighting == "static" else p
    regularisers = [side.sums(-beta * reward * side.policy) for side, reward in zip(sides, token_rewards, strict=True)]
    preference = _minus_log_sigma(d)
    gradients = [
        side.spread(sign * scale * p) - params.alpha * side.spread(weight) * beta * reward
        for side, reward, scale, sign in zip(sides, token_rewards, per_token, (-1, 1), strict=True)
    ]
    return TReg(
        rewards=(scores[0], scores[1]),
        preference_loss=preference,
        weight=weight,
        regularisers=(regularisers[0], regularisers[1]),
        total=preference + params.alpha * weight * (regularisers[0] + regularisers[1]),
        gradients=tuple(
            gradient if side.trained is None else np.where(side.trained, gradient, 0.0)
            for side, gradient in zip(sides, gradients, strict=True)
        ),
    )


def _minus_log_sigma(logits: np.ndarray) -> np.ndarray:
    """`-log sigma(x)` without overflow."""
    with np.errstate(invalid="ignore"):
        return np.logaddexp(0.0, -logits)
