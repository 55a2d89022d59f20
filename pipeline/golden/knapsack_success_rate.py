"""Vectors of the success rates of Knapsack RL: one task, after each epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from pipeline.generation.budget.success_rate import SuccessRateParams, success_rates
from pipeline.golden.nodes import chosen

_PARAMS = tuple(field.name for field in fields(SuccessRateParams))


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """States in the order of the epochs."""
    options = SuccessRateParams(**chosen(params, *_PARAMS))
    rewards: list[float] = []
    epochs: list[int] = []
    states = []
    for epoch, earned in enumerate(given["rewards_by_epoch"]):
        rewards += earned
        epochs += [epoch] * len(earned)
        found = success_rates(
            np.array(rewards, dtype=np.float64),
            np.zeros(len(rewards), dtype=np.int64),
            epochs=np.array(epochs, dtype=np.int64),
            count=1,
            params=options,
        )
        states.append({"has_history": found.has_history[0], "success_rate": found.rate[0], "n_seen": found.seen[0]})
    return {"state_after_each": states}
