"""Vectors of training curricula: weights of pairs, of points and of tasks, and the order of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.builders.curriculum import (
    CurriculumParams,
    curriculum_ranks,
    item_weights,
    pair_weights,
    point_weights,
    task_easiness,
)
from pipeline.credit.ragged import ragged
from pipeline.errors import BadConfig

_OPTIONS = ("heuristic", "epoch", "end_of_curriculum", "anti", "weighting")


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What the operation of the case asks for.

    Raises:
        BadConfig: no such operation.
    """
    options = CurriculumParams(**{name: params[name] for name in _OPTIONS if name in params})
    match params["op"]:
        case "pair_weight":
            positive = np.array([pair["positive"] for pair in given["pairs"]], np.float64)
            return {"weights": pair_weights(positive, *ragged(map(_negatives, given["pairs"])), options)}
        case "point_weight":
            scores = np.array([item["score"] for item in given["items"]], np.float64)
            positive = np.array([item["is_positive"] for item in given["items"]], bool)
            return {"weights": point_weights(scores, positive, options)}
        case "dataset":
            return _dataset(options, given)
    raise BadConfig(f"curriculum has no operation {params['op']!r}", remedy="use pair_weight, point_weight or dataset")


def _negatives(pair: Mapping[str, Any]) -> list[float]:
    """One negative or several."""
    found = pair["negatives"] if "negatives" in pair else pair["negative"]
    return found if isinstance(found, list) else [found]


def _dataset(options: CurriculumParams, given: Mapping[str, Any]) -> dict[str, Any]:
    ids = [task["task_id"] for task in given["tasks"]]
    counts = [np.array([task[name] for task in given["tasks"]], np.float64) for name in ("successes", "attempts")]
    easy = task_easiness(*counts)
    order = np.argsort(curriculum_ranks(easy, ids))
    return {"weights": dict(zip(ids, item_weights(easy, options))), "order": [ids[place] for place in order]}
