"""Vectors of Knapsack RL: rollouts by task, made by the solver of the official code unless one is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from pipeline.generation.budget.knapsack import KnapsackParams, knapsack

_PARAMS = {field.name for field in fields(KnapsackParams)}


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Rollouts in the order of the tasks."""
    tasks = given["tasks"]
    found = knapsack(
        np.array([task.get("success_rate") or 0.0 for task in tasks], dtype=np.float64),
        np.array([task.get("has_history", False) for task in tasks], dtype=bool),
        KnapsackParams(**{"solver": "dp"} | {name: params[name] for name in _PARAMS & params.keys()}),
    )
    return {
        "budget": found.rollouts,
        "sum": found.rollouts.sum(),
        "fallback": found.fallback,
        "fallback_effective_ratio": found.effective_ratio,
        "total_value_of_effective_tasks": found.total_value,
    }


def alike(value: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Tasks of one success rate, to the float32 it is kept in, may swap their rollouts: sorted for each rate."""
    rates = [(bool(task.get("has_history")), np.float32(task.get("success_rate") or 0.0)) for task in given["tasks"]]
    counts: dict[str, list[int]] = {}
    for rate, count in zip(rates, value["budget"], strict=True):
        counts.setdefault(f"{rate[0]} {rate[1]}", []).append(count)
    return {**value, "budget": {rate: sorted(some) for rate, some in counts.items()}}
