"""ArCHer: what a twin critic over utterances is trained to, and the advantages it gives.

Does not know models: their outputs come as numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.credit.columns import CreditColumns, Trees
from pipeline.credit.ragged import Ragged, row_sums, rows_of, suffix_sums
from pipeline.credit.spoken import said_by_policy


@dataclass(frozen=True, slots=True)
class ArcherParams:
    """Parameters of ArCHer.

    gamma: discount an utterance; 0.9 is the default of the code's class.
    tau: share of the online critic that its target takes over after a step.
    """

    gamma: float = 0.95
    tau: float = 0.1


DEFAULTS = ArcherParams()


class Returns(NamedTuple):
    """Of `P` utterances, in reward units.

    trajectory_reward: `[P]`, sum of the rewards of its whole trajectory.
    monte_carlo: `[P]`, discounted sum from the utterance on.
    """

    trajectory_reward: np.ndarray
    monte_carlo: np.ndarray


class CriticTargets(NamedTuple):
    """`[2, P]` each, a row a head: what Q of the stored utterance and V of its observation are trained to."""

    q: np.ndarray
    v: np.ndarray


class ActorLoss(NamedTuple):
    """terms: `[P]`, of each utterance. loss: their mean. baseline_loss: mean squared error of the token baseline; NaN
    without one."""

    terms: np.ndarray
    loss: float
    baseline_loss: float


def returns(rewards: np.ndarray, offsets: np.ndarray, *, params: ArcherParams = DEFAULTS) -> Returns:
    """What the replay buffer keeps of trajectories beside the utterances.

    Args:
        rewards: `[P]` float64, of the utterances, trajectory after trajectory.
        offsets: `[M + 1]` int64, where each trajectory begins.
        params: gamma.

    Source: the code of ArCHer (Zhou et al., 2024); no deviation.
    """
    total = row_sums(rewards, offsets)[rows_of(offsets)]
    return Returns(total, suffix_sums(rewards, offsets, discount=params.gamma))


def critic_targets(
    rewards: np.ndarray,
    done: np.ndarray,
    *,
    next_values: np.ndarray,
    policy_values: np.ndarray,
    params: ArcherParams = DEFAULTS,
) -> CriticTargets:
    """What the critic is trained to.

    Args:
        rewards: `[P]` float64.
        done: `[P]` bool, the episode ended; a truncated one goes on to bootstrap.
        next_values: `[2, P]`, V of the target critic at the next observation; not looked at where done.
        policy_values: `[2, P]`, Q of the target critic of an utterance drawn anew from the policy.
        params: gamma.

    Source: ArCHer (Zhou et al., 2024); no deviation.
    """
    ahead = np.where(done, 0.0, next_values)
    return CriticTargets(rewards + params.gamma * ahead, policy_values)


def critic_loss(q: np.ndarray, v: np.ndarray, targets: CriticTargets) -> float:
    """Sum over the four heads of the mean squared error over utterances; 0 without one.

    Args:
        q, v: `[2, P]`, online heads on the stored utterance and on its observation.
        targets: of the same utterances.
    """
    count = max(q.shape[-1], 1)
    return float(((q - targets.q) ** 2).sum() + ((v - targets.v) ** 2).sum()) / count


def update_target(target: np.ndarray, online: np.ndarray, *, params: ArcherParams = DEFAULTS) -> np.ndarray:
    """Weights of the target critic after a step of the online one, of the same shape."""
    return (1.0 - params.tau) * target + params.tau * online


def advantages(q: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The lower Q less the lower V.

    Args:
        q: `[2, P]`, online heads on an utterance drawn anew, or on the stored one to annotate it.
        v: `[2, P]`, online heads on its observation.

    Returns:
        `[P]` float64, reward units.
    """
    return q.min(axis=0) - v.min(axis=0)


def actor_loss(advantage: np.ndarray, logprobs: Ragged, *, baseline: np.ndarray | None = None) -> ActorLoss:
    """REINFORCE on utterances.

    Args:
        advantage: `[P]` float64.
        logprobs: a row an utterance, of the tokens the advantage is of.
        baseline: `[T]` float64, taken off the advantage at each token. None: 0.

    Returns:
        0 for an utterance without tokens, and as losses where there is nothing.
    """
    advantage_T = np.repeat(advantage, np.diff(logprobs.offsets))
    error = advantage_T - (0.0 if baseline is None else baseline)
    terms = -row_sums(error * logprobs.values, logprobs.offsets)
    baseline_loss = np.nan if baseline is None else float((error**2).sum() / max(len(error), 1))
    return ActorLoss(terms, float(terms.sum() / max(len(terms), 1)), baseline_loss)


def archer_credit(trees: Trees, params: ArcherParams = DEFAULTS) -> CreditColumns:
    """Credit every step by what a critic says of it: the value of saying it less that of the state before it.

    A step is an utterance. Verdicts are not looked at: the critic has seen the rewards.

    Args:
        trees: `N` nodes, given `kind`, `origin`, `critic_q` and `critic_v`, of twins the lower each.
        params: the critic was trained with them; they are not looked at.

    Returns:
        value: `[N]` float64, `critic_q`: expected return once the step is said; NaN where the policy said nothing.
        advantage: `[N]` float64, reward units; 0 where the policy said nothing, NaN where the critic did not.

    Source: as `advantages`, on the utterances that are stored, as an annotation must be.
    """
    said, q, v = said_by_policy(trees), trees.given["critic_q"], trees.given["critic_v"]
    return CreditColumns(
        value=np.where(said, q, np.nan), advantage=np.where(said, advantages(q[None, :], v[None, :]), 0.0)
    )
