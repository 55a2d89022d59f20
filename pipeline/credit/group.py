"""Group advantages: what a trajectory earned beside the others of its task, the same for all its steps.

Does not look at the steps: where a trajectory turned is for the other methods.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.credit.columns import CreditColumns, Trees, drop_rounding, moments
from pipeline.errors import BadConfig

CONVENTIONS = (
    "grpo_verl",
    "grpo_trl_scale_group",
    "grpo_trl_scale_batch",
    "dr_grpo_verl",
    "grpo_trl_scale_none",
    "rloo_verl",
    "rloo_trl",
    "opo_verl",
)
"""The formula and the library whose corner cases it has."""


@dataclass(frozen=True, slots=True)
class GroupParams:
    """Parameters of group advantages.

    convention: word of CONVENTIONS.
    verl_eps, trl_eps: added to the standard deviation by verl's and by TRL's formulas.
    ddof: of the standard deviation; 1 in both libraries.

    Raises:
        BadConfig: no such convention.
    """

    convention: str = "grpo_verl"
    verl_eps: float = 1e-6
    trl_eps: float = 1e-4
    ddof: int = 1

    def __post_init__(self) -> None:
        if self.convention not in CONVENTIONS:
            raise BadConfig(
                f"group advantage convention {self.convention!r} is not known", remedy=f"use one of {CONVENTIONS}"
            )


DEFAULTS = GroupParams()


def group_advantages(
    rewards: np.ndarray, groups: np.ndarray, *, lengths: np.ndarray, params: GroupParams = DEFAULTS
) -> np.ndarray:
    """Advantage of each trajectory in its group.

    | convention           | advantage                                  | group of one |
    |----------------------|--------------------------------------------|--------------|
    | grpo_verl            | (r - mean) / (std + verl_eps)              | r / (1 + verl_eps) |
    | grpo_trl_scale_group | (r - mean) / (std + trl_eps)               | NaN |
    | grpo_trl_scale_batch | (r - mean) / (std of all rewards + trl_eps) | 0 |
    | dr_grpo_verl         | r - mean                                   | r |
    | grpo_trl_scale_none  | r - mean                                   | 0 |
    | rloo_verl            | r - mean of the others                     | r |
    | rloo_trl             | r - mean of the others                     | NaN |
    | opo_verl             | r - sum(length * r) / sum(length)          | r |

    Args:
        rewards: `[M]` float64, no NaN.
        groups: `[M]` int, code of each trajectory's group, from 0.
        lengths: `[M]` int, tokens of each trajectory; only `opo_verl` looks at them.
        params: which convention.

    Returns:
        `[M]` float64, reward units, or standard deviations where the formula divides by one. 0 in a larger
        group of equal rewards. NaN where TRL's formula has no value, and under `opo_verl` in a group that
        differs without having a token.

    Source: GRPO (Shao et al., 2024), Dr.GRPO (Liu et al., 2025), RLOO (Ahmadian et al., 2024), OPO (Hao et
        al., 2025), as verl and TRL compute them. Deviations: equal rewards give exactly 0 however
        their mean rounds, and a group of one is NaN where TRL's formula would spoil the batch.
    """
    count = int(groups.max()) + 1 if len(groups) else 0
    of = moments(rewards, groups, count=count, ddof=params.ddof)
    size, std = of.count[groups], of.std[groups]
    alone = size == 1
    match params.convention:
        case "grpo_verl":
            advantage = np.where(alone, rewards / (1.0 + params.verl_eps), of.centred / (std + params.verl_eps))
        case "grpo_trl_scale_group":
            advantage = np.where(alone, np.nan, of.centred / (std + params.trl_eps))
        case "grpo_trl_scale_batch":
            batch = moments(rewards, np.zeros_like(groups), count=1, ddof=params.ddof)
            advantage = np.where(alone, 0.0, of.centred / (batch.std[0] + params.trl_eps))
        case "dr_grpo_verl":
            advantage = np.where(alone, rewards, of.centred)
        case "grpo_trl_scale_none":
            advantage = of.centred
        case "rloo_verl" | "rloo_trl":
            others = of.centred * size / np.maximum(size - 1, 1)
            advantage = np.where(alone, rewards if params.convention == "rloo_verl" else np.nan, others)
        case "opo_verl":
            total = np.bincount(groups, weights=lengths, minlength=count)
            earned = np.bincount(groups, weights=lengths * rewards, minlength=count)
            baseline = np.divide(earned, total, out=np.full(count, np.nan), where=total > 0)
            centred = np.where(of.alike[groups], 0.0, rewards - baseline[groups])
            advantage = np.where(alone, rewards, centred)
    return drop_rounding(advantage)


def group_credit(trees: Trees, params: GroupParams = DEFAULTS) -> CreditColumns:
    """Give every node of a path its trajectory's advantage among the judged leaves of the tree.

    A trajectory without a verdict takes no part in the group. Where several judged trajectories pass through
    a node, it has the mean of their advantages. The length of a trajectory leaves out the prompt. The batch of
    `grpo_trl_scale_batch` is all of `trees`.

    Args:
        trees: `N` nodes.
        params: which convention.

    Returns:
        advantage: `[N]` float64; 0 at roots, NaN where no judged leaf is below or the convention gives none.

    Source: GRPO (Shao et al., 2024) as verl computes it, unless `convention` names another formula: Dr.GRPO (Liu et
        al., 2025), RLOO (Ahmadian et al., 2024), OPO (Hao et al., 2025). Deviation: equal rewards give exactly 0
        however their mean rounds.
    """
    ends = trees.judged()
    paths = trees.paths(ends)
    advantage_M = group_advantages(
        trees.reward[ends], trees.tree[ends], lengths=paths.token_counts(trees), params=params
    )
    return CreditColumns(advantage=np.where(trees.parent < 0, 0.0, paths.mean_by_node(advantage_M)))
