"""HICRA: tokens of planning phrases have their group advantage enlarged by a share of its size.

Does not know which phrases those are: a mask comes in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.credit.columns import CreditColumns, Trees
from pipeline.credit.group import GroupParams, group_advantages
from pipeline.credit.ragged import rows_of
from pipeline.credit.spoken import spoken
from pipeline.credit.token_rows import credit_of_tokens, token_rows


@dataclass(frozen=True, slots=True)
class HicraParams:
    """Parameters of HICRA.

    alpha: share of its size that an advantage grows by; below 1 it keeps its sign.
    normalize_std: divide by the standard deviation of the group's rewards.
    std_ddof, eps: of that deviation.
    """

    alpha: float = 0.2
    normalize_std: bool = False
    std_ddof: int = 1
    eps: float = 1e-6


DEFAULTS = HicraParams()


class HicraCredit(NamedTuple):
    """base: `[M]` float64, each trajectory's advantage. token_advantages: `[T]` float64."""

    base: np.ndarray
    token_advantages: np.ndarray


def hicra(
    rewards: np.ndarray,
    groups: np.ndarray,
    *,
    planning: np.ndarray,
    offsets: np.ndarray,
    params: HicraParams = DEFAULTS,
) -> HicraCredit:
    """Credit every token of a batch of trajectories: `A + alpha * |A|` on planning tokens, `A` on others.

    Where things went well planning earns more, where they went badly it is blamed less.

    Args:
        rewards: `[M]` float64, no NaN.
        groups: `[M]` int, code of each trajectory's group, from 0.
        planning: `[T]` bool, tokens of planning phrases, of `strategic_grams.GramMatcher.mask`.
        offsets: `[M + 1]` int64, where the tokens of each trajectory begin.
        params: alpha, and whether to divide by the group's spread.

    Source: Emergent Hierarchical Reasoning (Wang et al., 2025) by its equation; there is no code. A group of one keeps
        its reward for an advantage.
    """
    convention = "grpo_verl" if params.normalize_std else "dr_grpo_verl"
    base_params = GroupParams(convention, verl_eps=params.eps, ddof=params.std_ddof)
    base = group_advantages(rewards, groups, lengths=np.diff(offsets), params=base_params)
    advantages = base[rows_of(offsets)]
    return HicraCredit(base, np.where(planning, advantages + params.alpha * np.abs(advantages), advantages))


def hicra_credit(trees: Trees, params: HicraParams = DEFAULTS) -> CreditColumns:
    """Credit the tokens of the judged trajectories of trees, the verdicts being the rewards.

    Args:
        trees: `N` nodes, given `kind`, `origin` and `planning`.
        params: alpha, and whether to divide by the group's spread.

    Returns:
        advantage: `[N]` float64, mean over the node's known tokens; 0 where the policy said nothing, NaN without such
            a token.
        token_advantages: `[T]` float64, mean over the judged trajectories through the token; 0 where the policy said
            nothing, NaN where nobody said whether it plans or no judged leaf is below.

    Source: as `hicra`.
    """
    found = spoken(trees, judged=True)
    rows = token_rows(trees, found)
    planning = rows.of(trees.given["planning"]).values
    said = hicra(
        trees.reward[found.ends], found.tasks, planning=planning > 0, offsets=rows.offsets, params=params
    ).token_advantages
    return credit_of_tokens(trees, rows, np.where(np.isnan(planning), np.nan, said))
