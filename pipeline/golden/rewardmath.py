"""Vectors of RewardMATH: accuracy and reciprocal rank of right solutions among wrong ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.credit.ragged import ragged
from pipeline.metrics.rewardmath import pairwise_scores, reward_math, solution_scores


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Over the tasks of the case. Under `pairwise` each wrong solution says whether the right one beat it."""
    aggregation = params.get("aggregation", "normal")
    listed = [(code, one) for code, task in enumerate(given["tasks"]) for one in task["solutions"]]
    tasks = np.array([code for code, _ in listed], int)
    chosen = np.array([one["is_chosen"] for _, one in listed], bool)
    if aggregation == "pairwise":
        scores = _compared([task["solutions"] for task in given["tasks"]], chosen)
    else:
        steps = ragged([[one["score"]] if aggregation == "normal" else one["step_scores"] for _, one in listed])
        scores = solution_scores(*steps, aggregation=aggregation)
    found = reward_math(scores, chosen, tasks, aggregation=aggregation)
    return {
        "accuracy": found.accuracy,
        "accuracy_with_ties": found.with_ties,
        "mrr": found.mrr,
        "per_task_mrr": found.per_task_mrr,
    }


def _compared(tasks: list[list[Mapping[str, Any]]], chosen: np.ndarray) -> np.ndarray:
    won = ragged([[one["chosen_won"] for one in task if not one["is_chosen"]] for task in tasks])
    scores = np.empty(len(chosen))
    scores[chosen], scores[~chosen] = pairwise_scores(*won)
    return scores
