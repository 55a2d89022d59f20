"""From r to Q*: what a policy tuned by preferences says each token is worth, and its logits as a soft Q function.

Does not know what the log-probabilities were drawn for: any policy and reference of one tokenizer will do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.credit.columns import CreditColumns, Trees
from pipeline.credit.ragged import Ragged, log_ratios, prefix_sums, row_sums, suffix_sums
from pipeline.credit.spoken import lay_steps, spoken
from pipeline.credit.token_rows import lay_tokens, token_rows
from pipeline.errors import BadConfig, BadTable


@dataclass(frozen=True, slots=True)
class RToQParams:
    """Parameters of r to Q*.

    beta: weight of the divergence from the reference that the policy was tuned with, in reward units a nat.

    Raises:
        BadConfig: beta is negative or no number.
    """

    beta: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.beta < np.inf:
            raise BadConfig(f"r_to_q beta {self.beta} is no weight", remedy="give the beta of the preference training")


DEFAULTS = RToQParams()


class ImplicitRewards(NamedTuple):
    """Rewards of `R` responses of `S` steps and `T` tokens, in reward units; NaN where a log-probability is.

    token_rewards: `[T]`, beta times the log-ratio of policy to reference.
    step_rewards:  `[S]`, sums over the step; 0 for an empty one.
    sequence_rewards: `[R]`, sums over the response.
    value_change: `[T]`, sum from the start of the response to the token: V(after it) - V(start), plus what was earned.
    reward_to_go: `[T]`, sum from the token to the end of the response.
    step_end_value_change: `[S]`, `value_change` at the end of the step; of an empty step that of the one before,
        0 at the start.
    """

    token_rewards: np.ndarray
    step_rewards: np.ndarray
    sequence_rewards: np.ndarray
    value_change: np.ndarray
    reward_to_go: np.ndarray
    step_end_value_change: np.ndarray


class SoftQ(NamedTuple):
    """Q and V of `R` responses of `T` tokens, in reward units unless said otherwise.

    value:     `[T]`, beta * logsumexp of the logits before the token.
    q_taken:   `[T]`, beta * logit of the token.
    advantage: `[T]`, q_taken - value.
    logprobs:  `[T]`, nats, of the token under the policy.
    token_rewards: `[T]`, beta * log-ratio. Adding a number to a row of logits leaves it as it is.
    bellman_rewards: `[T]`, q_taken - beta * log reference - value after the token, which is 0 after the last.
    sequence_rewards: `[R]`, sums of `token_rewards`.
    bellman_less_start: `[R]`, sums of `bellman_rewards` less the value at the start: the same sums, another way.
    """

    value: np.ndarray
    q_taken: np.ndarray
    advantage: np.ndarray
    logprobs: np.ndarray
    token_rewards: np.ndarray
    bellman_rewards: np.ndarray
    sequence_rewards: np.ndarray
    bellman_less_start: np.ndarray


def implicit_rewards(
    policy: Ragged, reference: Ragged, *, steps: np.ndarray, params: RToQParams = DEFAULTS
) -> ImplicitRewards:
    """The rewards under which the policy is optimal, up to a potential.

    Prefix sums order siblings that branch off the same state by value; sums over whole responses to one prompt
    differ from their true returns by one constant.

    Args:
        policy: natural log-probabilities of `S` steps of `T` tokens, a row a step.
        reference: of the same tokens.
        steps: `[R + 1]` int64, where the steps of each of `R` responses begin.
        params: beta.

    Raises:
        BadTable: the steps have not the same tokens under both models; names the step's row.

    Source: From r to Q* (Rafailov et al., 2024); no deviation.
    """
    tokens = params.beta * log_ratios(policy, reference)
    responses = policy.offsets[steps]
    by_step = row_sums(tokens, policy.offsets)
    return ImplicitRewards(
        token_rewards=tokens,
        step_rewards=by_step,
        sequence_rewards=row_sums(tokens, responses),
        value_change=prefix_sums(tokens, responses),
        reward_to_go=suffix_sums(tokens, responses),
        step_end_value_change=prefix_sums(by_step, steps),
    )


def q_from_logits(
    logits: np.ndarray,
    reference: np.ndarray,
    *,
    actions: np.ndarray,
    offsets: np.ndarray,
    params: RToQParams = DEFAULTS,
) -> SoftQ:
    """Read the logits of a policy as a soft Q function.

    Args:
        logits: `[T, A]` float64, of the policy before each of `T` tokens.
        reference: `[T, A]` float64, of the reference.
        actions: `[T]` int, the token taken.
        offsets: `[R + 1]` int64, where each response begins.
        params: beta.

    Raises:
        BadTable: the models have not the same vocabulary, or a token is none of it; names the row.
    """
    if logits.shape != reference.shape or len(actions) != len(logits):
        culprit = f"policy logits {logits.shape}, reference logits {reference.shape}, {len(actions)} tokens do not fit"
        raise BadTable(culprit, remedy="score the same tokens with both models, by one tokenizer")
    places = np.arange(len(actions))
    foreign = (actions < 0) | (actions >= logits.shape[-1])
    if foreign.any():
        row = int(np.argmax(foreign))
        culprit = f"row {row}: token {actions[row]} is not among {logits.shape[-1]} logits"
        raise BadTable(culprit, remedy="give the logits of the whole vocabulary")
    total, reference_total = _logsumexp(logits), _logsumexp(reference)
    taken, reference_logprobs = logits[places, actions], reference[places, actions] - reference_total
    logprobs = taken - total
    value = params.beta * total
    after = np.zeros(len(value))
    after[:-1] = value[1:]
    lengths = np.diff(offsets)
    after[offsets[1:][lengths > 0] - 1] = 0.0
    rewards = params.beta * (logprobs - reference_logprobs)
    bellman = params.beta * (taken - reference_logprobs) - after
    start = np.zeros(len(lengths))
    start[lengths > 0] = value[offsets[:-1][lengths > 0]]
    return SoftQ(
        value=value,
        q_taken=params.beta * taken,
        advantage=params.beta * logprobs,
        logprobs=logprobs,
        token_rewards=rewards,
        bellman_rewards=bellman,
        sequence_rewards=row_sums(rewards, offsets),
        bellman_less_start=row_sums(bellman, offsets) - start,
    )


def r_to_q_credit(trees: Trees, params: RToQParams = DEFAULTS) -> CreditColumns:
    """Credit the tokens of trees by what a policy that was tuned by preferences says they are worth.

    Verdicts are not looked at. Values order siblings that branch off the same state.

    Args:
        trees: `N` nodes, given `kind`, `origin`, `tuned_logprobs` and `reference_logprobs`.
        params: beta.

    Returns:
        value: `[N]` float64, reward units, how far it stands above that of the root: rewards summed from there; NaN
            where one of them is unknown, and where the policy said nothing.
        advantage: `[N]` float64, rewards summed over the node's tokens, which is by how much its value stands above its
            parent's; 0 of an empty step and where the policy said nothing, NaN where a token is unknown.
        token_advantages: `[T]` float64, the token's reward; 0 where the policy said nothing, NaN where unknown.

    Source: as `implicit_rewards`.
    """
    paths = (found := spoken(trees)).paths
    rows = token_rows(trees, found)
    tuned, reference = rows.by_step(trees.given["tuned_logprobs"]), rows.by_step(trees.given["reference_logprobs"])
    rewards = implicit_rewards(tuned, reference, steps=paths.offsets, params=params)
    return CreditColumns(
        value=lay_steps(trees, paths.nodes, rewards.step_end_value_change, unsaid=np.nan),
        advantage=lay_steps(trees, paths.nodes, rewards.step_rewards),
        token_advantages=lay_tokens(trees, rows, rewards.token_rewards),
    )


def _logsumexp(logits: np.ndarray) -> np.ndarray:
    """`[T]`: logarithm of the sum of exponentials of each row."""
    if not len(logits):
        return np.zeros(0)
    highest = logits.max(axis=1, keepdims=True)
    return highest[:, 0] + np.log(np.exp(logits - highest).sum(axis=1))
