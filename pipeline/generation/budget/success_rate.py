"""How often each task has been solved of late, from the rewards of its rollouts by epoch.

Does not know what a rate is used for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.credit.columns import mean_by


@dataclass(frozen=True, slots=True)
class SuccessRateParams:
    """Parameters of the tracker.

    reward_buffer_length: rewards that suffice for a rate, and the latest that are looked at where an epoch has fewer.
    min_buffer_length: rewards from which on a task has a history.
    epoch_estimation: a rate is of the latest epoch; else always of the latest rewards.
    robust_epoch_estimation: an epoch of fewer rewards than suffice is filled up with those before it.
    """

    reward_buffer_length: int = 16
    min_buffer_length: int = 8
    epoch_estimation: bool = True
    robust_epoch_estimation: bool = True


DEFAULTS = SuccessRateParams()


class SuccessRates(NamedTuple):
    """Of `N` tasks.

    rate: `[N]` float64; 0 for a task without a reward. has_history: `[N]` bool, there are rewards enough.
    seen: `[N]` int64, rewards so far.
    """

    rate: np.ndarray
    has_history: np.ndarray
    seen: np.ndarray


def success_rates(
    rewards: np.ndarray,
    tasks: np.ndarray,
    *,
    epochs: np.ndarray,
    count: int,
    params: SuccessRateParams = DEFAULTS,
) -> SuccessRates:
    """Success rates after the last epoch.

    Args:
        rewards: `[S]` float64, in the order they came; -1 counts as 0, NaN (no verdict) is passed over.
        tasks: `[S]` int, code of each one's task, below `count`.
        epochs: `[S]` int; an epoch in which a task has no reward leaves its rate as it was.
        count: `N`, the number of tasks.
        params: which rewards a rate is of.

    Source: Knapsack RL (2025), as the data set of its code keeps them.
    """
    known = ~np.isnan(rewards)
    order = np.flatnonzero(known)[np.lexsort((epochs[known], tasks[known]))]  # stable: arrival breaks ties
    task, epoch, reward = tasks[order], epochs[order], rewards[order]
    reward = np.where(reward == -1, 0.0, reward)
    seen = np.bincount(task, minlength=count)
    to_come = np.repeat(np.cumsum(seen), seen) - 1 - np.arange(len(task))
    latest = to_come < params.reward_buffer_length
    looked_at = latest
    if params.epoch_estimation:
        last = np.full(count, np.iinfo(np.int64).min)
        np.maximum.at(last, task, epoch)
        looked_at = epoch == last[task]
        if params.robust_epoch_estimation:
            few = np.bincount(task[looked_at], minlength=count) < params.reward_buffer_length
            looked_at = np.where(few[task], latest, looked_at)
    rate = mean_by(task[looked_at], reward[looked_at], count)
    return SuccessRates(np.where(np.isnan(rate), 0.0, rate), seen >= params.min_buffer_length, seen)
