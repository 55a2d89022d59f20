"""Group advantages: what a trajectory earned beside the others of its task, the same for all its steps.

Does not look at the steps: where a trajectory turned is for the other methods.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.credit.columns import ZERO, CreditColumns, Trees, moments, rows_by_depth, scaled
from pipeline.credit.compiled import kernels
from pipeline.errors import BadConfig, check_words

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
    overlong_max: tokens of a trajectory beyond which its reward is 1 less, as in DAPO. None: lengths cost nothing.
    overlong_cache: over how many tokens before that it falls, in a line.

    Raises:
        BadConfig: no such convention, or the fall would begin before the first token.
    """

    convention: str = "grpo_verl"
    verl_eps: float = 1e-6
    trl_eps: float = 1e-4
    ddof: int = 1
    overlong_max: int | None = None
    overlong_cache: int = 0

    def __post_init__(self) -> None:
        check_words(self, of="group", convention=CONVENTIONS)
        if self.overlong_max is not None and not 0 <= self.overlong_cache <= self.overlong_max:
            raise BadConfig(
                f"overlong_cache {self.overlong_cache} is not in 0 to {self.overlong_max}",
                remedy="give as many tokens as overlong_max has, or fewer; DAPO has 4096 of 20480",
            )


DEFAULTS = GroupParams()


def group_advantages(
    rewards: np.ndarray, groups: np.ndarray, *, lengths: np.ndarray | None, params: GroupParams = DEFAULTS
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
        rewards: `[M]` float64; NaN: takes no part.
        groups: `[M]` int, code of each trajectory's group, from 0.
        lengths: `[M]` int, tokens of each trajectory; only `opo_verl` and `overlong_max` look at them. None: not known.
        params: which convention.

    Returns:
        `[M]` float64, reward units, or standard deviations where the formula divides by one. 0 in a larger
        group of equal rewards. NaN without a reward, where TRL's formula has no value, and under `opo_verl` in a
        group that differs without having a token.

    Source: GRPO (Shao et al., 2024), Dr.GRPO (Liu et al., 2025), RLOO (Ahmadian et al., 2024), OPO (Hao et
        al., 2025), as verl and TRL compute them. Deviations: equal rewards give exactly 0 however
        their mean rounds, and a group of one is NaN where TRL's formula would spoil the batch.
    """
    count = int(groups.max()) + 1 if len(groups) else 0
    if params.overlong_max is not None:
        rewards = rewards + overlong_punishment(lengths, most=params.overlong_max, cache=params.overlong_cache)
    of = moments(rewards, groups, count=count, ddof=params.ddof)
    alone = of.count == 1
    equal = of.alike & ~alone
    base, factor = of.mean, np.ones(count)
    match params.convention:
        case "grpo_verl":
            factor = 1.0 / (np.where(alone, 1.0, of.std) + params.verl_eps)
        case "grpo_trl_scale_group":
            factor = 1.0 / (np.where(alone, np.nan, of.std) + params.trl_eps)
        case "grpo_trl_scale_batch":
            batch = moments(rewards, np.zeros_like(groups), count=1, ddof=params.ddof)
            factor = np.where(alone, 0.0, 1.0 / (batch.std[0] + params.trl_eps))
        case "rloo_verl" | "rloo_trl":
            lone = 1.0 if params.convention == "rloo_verl" else np.nan
            factor = np.where(alone, lone, of.count / np.maximum(of.count - 1, 1))
        case "opo_verl":
            base = np.where(equal, of.mean, _weighted_means(rewards, lengths, groups, count))
    if params.convention.endswith("_verl"):
        base = np.where(alone, 0.0, base)
    return scaled(rewards, groups, base, np.where(equal, 0.0, factor), zero=ZERO)


def overlong_punishment(lengths: np.ndarray, *, most: int, cache: int) -> np.ndarray:
    """`[M]` float64, reward units: 0 up to `most - cache` tokens, from there in a line to -1 at `most`, -1 beyond.

    Source: DAPO (Yu et al., 2025), the soft overlong punishment.
    """
    over = lengths - (most - cache)
    return np.where(over > 0, np.maximum(-over / max(cache, 1), -1.0), 0.0)


def _weighted_means(values: np.ndarray, weights: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """`[count]` float64: mean of the values of each group by weight; NaN where they have none."""
    if fast := kernels(len(values)):
        return fast.weighted_means(values, weights, groups, count)
    weights = np.where(np.isnan(values), 0, weights)
    total = np.bincount(groups, weights=weights, minlength=count)
    above = np.bincount(groups, weights=weights * np.nan_to_num(values), minlength=count)
    return np.divide(above, total, out=np.full(count, np.nan), where=total > 0)


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
    deep = np.flatnonzero(trees.depth > 1)
    levels = [deep[rows] for rows in rows_by_depth(trees.depth[deep] - 2)]
    told = params.convention == "opo_verl" or params.overlong_max is not None
    lengths = _path_tokens(trees, levels) if told else None
    advantage = group_advantages(trees.reward, trees.tree, lengths=lengths, params=params)
    if levels:
        advantage = _mean_below(trees, advantage, levels)
    advantage[trees.parent < 0] = 0.0
    return CreditColumns(advantage=advantage)


def _path_tokens(trees: Trees, levels: list[np.ndarray]) -> np.ndarray:
    """`[N]` int64: tokens from the first step to each node's end; `levels` are the rows of each depth from 2 on."""
    tokens = trees.token_counts()
    for rows in levels:
        tokens[rows] += tokens[trees.parent[rows]]
    return tokens


def _mean_below(trees: Trees, values: np.ndarray, levels: list[np.ndarray]) -> np.ndarray:
    """`[N]` float64: mean of the known values at and below each node, roots aside; NaN where there is none."""
    if fast := kernels(len(values)):
        return fast.mean_below(values, trees.parent)
    known = ~np.isnan(values)
    total, count = np.where(known, values, 0.0), known.astype(np.float64)
    for rows in reversed(levels):
        np.add.at(total, trees.parent[rows], total[rows])
        np.add.at(count, trees.parent[rows], count[rows])
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
