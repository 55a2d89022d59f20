"""Samples a task in a round, from how often it was solved in the rounds before (Knapsack RL)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from pipeline.generation.budget.knapsack import KnapsackParams, knapsack
from pipeline.generation.budget.success_rate import success_rates


def allotted_samples(tasks: Sequence[str], rewards: Sequence[pl.DataFrame], *, group: int) -> dict[str, int]:
    """Samples of each task of a round; `group` times as many in all as there are tasks.

    Args:
        tasks: of the round.
        rewards: of every round before `task` and `reward`, in the order of the rounds; null: no verdict.
        group: the mean, and what a task without a history has.

    Source: Knapsack RL (2025); a round is its epoch.
    """
    seen = pl.concat([rows.select("task", "reward", epoch=pl.lit(epoch)) for epoch, rows in enumerate(rewards)])
    codes = {task: code for code, task in enumerate(tasks)}
    seen = seen.filter(pl.col("task").is_in(list(codes)))
    found = success_rates(
        seen["reward"].cast(pl.Float64).fill_null(np.nan).to_numpy(),
        seen["task"].replace_strict(codes, return_dtype=pl.Int64).to_numpy(),
        epochs=seen["epoch"].to_numpy(),
        count=len(tasks),
    )
    shared = knapsack(found.rate, found.has_history, KnapsackParams(n=group))
    return dict(zip(tasks, shared.rollouts.tolist(), strict=True))
