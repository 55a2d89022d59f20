"""Vectors of the length curriculum: rewards of groups, or the budget at steps of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.credit.curriculum_length import (
    CurriculumLengthParams,
    ScheduleParams,
    budgets,
    curriculum_advantages,
    rewards,
)
from pipeline.golden.nodes import by_id, chosen, links, numbers

_SCHEDULE = {"B0": "start", "Bf": "end", "n_decays": "decays", "total_steps": "total_steps", "interval": "interval"}
_REWARD = {"R_cor": "r_cor", "R_max": "r_max", "std_stab_inside_sqrt": "std_stab"}
_SAME = ("length_shape", "lambda_c", "lambda_l", "lambda_f", "budget", "alpha_think", "alpha_answer", "std_ddof")


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Budgets of steps; or rewards and advantages by trajectory, what is not said being 0."""
    schedule = ScheduleParams(**_renamed(params, _SCHEDULE), **chosen(params, "kind", "gamma"))
    if "steps" in given:
        return {"budget": budgets(np.array(given["steps"]), schedule)}
    if params.get("budget") is None:
        params = {**params, "budget": float(budgets(np.array([params.get("step") or 0]), schedule)[0])}
    options = CurriculumLengthParams(**_renamed(params, _REWARD), **chosen(params, *_SAME))
    nodes, way = given["nodes"], links(given["nodes"])
    own = [node for node in nodes if node["parent"] is not None]
    found = rewards(
        numbers(own, "correct", 0.0),
        numbers(own, "n_tokens", 0.0),
        think=numbers(own, "think_span_ok", 0.0) > 0,
        answer=numbers(own, "answer_span_ok", 0.0) > 0,
        params=options,
    )
    groups = np.unique(way.root[way.parent >= 0], return_inverse=True)[1]
    parts = [dict(zip(found._fields, row, strict=True)) for row in zip(*found, strict=True)]
    return {
        "rewards": by_id(own, parts),
        "advantage": by_id(own, curriculum_advantages(found.total, groups, options)),
    }


def _renamed(params: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {name: params[given] for given, name in names.items() if params.get(given) is not None}
