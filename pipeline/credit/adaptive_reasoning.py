"""Adaptive deep reasoning: long or short, whichever suits the prompt, is paid, and the first token is taught to choose.

Does not know which token that is: its two logits come as numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.credit.columns import ZERO, CreditColumns, Trees, drop_rounding, mean_by
from pipeline.credit.group import GroupParams, group_advantages
from pipeline.credit.scored import one_of
from pipeline.credit.spoken import chosen, expected, lay_trajectories, spoken
from pipeline.errors import BadConfig


@dataclass(frozen=True, slots=True)
class AdaptiveReasoningParams:
    """Parameters of adaptive deep reasoning; only `simple_short` and `simple_long` are published.

    theta: share of right short answers from which a prompt is simple.
    simple_short, simple_long, complex_short, complex_long: reward of a right answer by prompt and mode.
    wrong: reward of a wrong answer.
    margin: by which the logit of the mode wanted is to exceed the other's.
    len_soft_start: share of `max_len` from which a long answer is docked.
    max_len: tokens at which it is docked in full.
    len_penalty: by how much then.

    Raises:
        BadConfig: there is no length to dock.
    """

    theta: float = 0.5
    simple_short: float = 1.5
    simple_long: float = 1.0
    complex_short: float = 1.0
    complex_long: float = 1.5
    wrong: float = -1.0
    margin: float = 1.0
    len_soft_start: float = 0.8
    max_len: int = 8192
    len_penalty: float = 0.5

    def __post_init__(self) -> None:
        if self.max_len <= 0 or self.len_soft_start < 0:
            raise BadConfig(
                f"adaptive_reasoning max_len {self.max_len} from {self.len_soft_start} is no length",
                remedy="use tokens above 0, and a share from 0",
            )


DEFAULTS = AdaptiveReasoningParams()


class AdaptiveReasoning(NamedTuple):
    """What the method says of `M` trajectories of `G` prompts.

    accuracy_short, accuracy_long: `[G]` float64, share of right ones; 0 for a half that is empty.
    simple: `[G]` bool; the mode wanted is short there, long elsewhere.
    mode_reward, length_penalty, total: `[M]` float64; NaN where correctness is unknown, the penalty never.
    """

    accuracy_short: np.ndarray
    accuracy_long: np.ndarray
    simple: np.ndarray
    mode_reward: np.ndarray
    length_penalty: np.ndarray
    total: np.ndarray


def adaptive_reasoning(
    correct: np.ndarray,
    groups: np.ndarray,
    *,
    long: np.ndarray,
    lengths: np.ndarray,
    count: int,
    params: AdaptiveReasoningParams = DEFAULTS,
) -> AdaptiveReasoning:
    """Reward the mode that suits the prompt, and dock long answers that are too long.

    Args:
        correct: `[M]` float64, right from 0.5 on; NaN: unknown, left out of the accuracies.
        groups: `[M]` int, code of each trajectory's prompt, below `count`.
        long: `[M]` bool, sampled in long mode; else in short.
        lengths: `[M]` tokens.
        count: `G`, the number of prompts.
        params: rewards, and what is simple and too long.

    Source: Adaptive Deep Reasoning (2025), from its abstract and notes of others. Deviation: all but the structure
        and the rewards of simple prompts is ours.
    """
    known, right = ~np.isnan(correct), (correct >= 0.5).astype(np.float64)
    short_half, long_half = (np.flatnonzero(known & (long == mode)) for mode in (False, True))
    short, deep = (np.nan_to_num(mean_by(groups[half], right[half], count)) for half in (short_half, long_half))
    simple = short >= params.theta - ZERO
    on_simple = np.where(long, params.simple_long, params.simple_short)
    on_complex = np.where(long, params.complex_long, params.complex_short)
    reward = np.where(right > 0, np.where(simple[groups], on_simple, on_complex), params.wrong)
    reward = np.where(known, reward, np.nan)
    penalty = np.where(long, length_penalties(lengths, params), 0.0)
    return AdaptiveReasoning(short, deep, simple, reward, penalty, reward + penalty)


def length_penalties(lengths: np.ndarray, params: AdaptiveReasoningParams = DEFAULTS) -> np.ndarray:
    """`[M]` float64: 0 up to the soft start, falling to `-len_penalty` at `max_len` and beyond."""
    start = params.len_soft_start * params.max_len
    over = np.asarray(lengths, np.float64) - start
    span = params.max_len - start
    share = np.minimum(1.0, over / span) if span > ZERO else np.ones_like(over)
    return np.where(over > ZERO, -params.len_penalty * share, 0.0)


def switch_losses(
    short_logits: np.ndarray, long_logits: np.ndarray, simple: np.ndarray, params: AdaptiveReasoningParams = DEFAULTS
) -> np.ndarray:
    """Margin loss of each prompt on the first token after it, the prompt without a tag; the batch has their mean.

    Args:
        short_logits, long_logits: `[G]` float64, of the tokens that open the modes; NaN: unknown.
        simple: `[G]` bool.
        params: margin.

    Returns:
        `[G]` float64, `max(0, margin - (wanted - other))`; NaN where a logit is unknown.
    """
    gap = np.where(simple, short_logits - long_logits, long_logits - short_logits)
    return drop_rounding(np.maximum(0.0, params.margin - gap))


def adaptive_advantages(totals: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """`[M]` float64: `(r - mean) / std` over both halves of a prompt together, as verl's GRPO; no NaN goes in."""
    return group_advantages(totals, groups, lengths=np.ones(len(totals)), params=GroupParams("grpo_verl"))


def adaptive_reasoning_credit(trees: Trees, params: AdaptiveReasoningParams = DEFAULTS) -> CreditColumns:
    """Give every step its trajectory's advantage among the judged ones of the prompt, its tree, in either mode.

    Needs `long_thinking` on leaves, and `kind`. A trajectory whose mode is unknown takes no part. Its length is that of
    what the policy said.

    Args:
        trees: `N` nodes.
        params: rewards, and what is simple and too long.

    Returns:
        value: `[N]` float64, mean total reward of the trajectories through the node; NaN where there is none.
        advantage: `[N]` float64, mean of theirs; 0 where the policy said nothing, NaN where no such trajectory passes.

    Raises:
        BadScore: `long_thinking` is not 1 or 0.

    Source: as `adaptive_reasoning`.
    """
    mode = one_of(trees, "long_thinking")
    found = spoken(trees, judged=True)
    found = chosen(found, ~np.isnan(mode[found.ends]))
    total = adaptive_reasoning(
        trees.reward[found.ends],
        found.tasks,
        long=mode[found.ends] == 1,
        lengths=found.paths.token_counts(trees),
        count=int(trees.tree.max(initial=-1)) + 1,
        params=params,
    ).total
    advantage = adaptive_advantages(total, found.tasks)
    return CreditColumns(value=expected(trees, found, total), advantage=lay_trajectories(trees, found, advantage))
