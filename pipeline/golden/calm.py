"""Vectors of CALM: pay and returns by step, distinct subgoals by trajectory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pipeline.credit.calm import CalmParams, calm, subgoal_codes
from pipeline.golden.forest import turns
from pipeline.golden.nodes import chosen

_PARAMS = tuple(field.name for field in fields(CalmParams))


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A list of achievements that is none is empty."""
    options = CalmParams(**chosen(params, *_PARAMS))
    found = turns(given["nodes"])
    said = [node.get("achieved") for node in found.nodes]
    listed = [one if isinstance(one, list) else [] for one in said]
    codes, steps = subgoal_codes(listed, params.get("subgoals") or [])
    credit = calm(found.column("reward", 0.0), found.offsets, codes=codes, steps=steps, params=options)
    achieved: list[list[str]] = [[] for _ in listed]
    told = [name for names in listed for name in names]
    for name, step, counted in zip(told, steps.tolist(), credit.counted.tolist(), strict=True):
        if counted:
            achieved[step].append(name)
    return {
        "achieved": found.by_id(achieved),
        "subgoal_reward": found.by_id(credit.subgoal_reward),
        "shaped_reward": found.by_id(credit.shaped_reward),
        "shaped_return": found.by_id(credit.shaped_return),
        "option_id": found.by_id(credit.option),
        "achieved_count": found.by_trajectory(credit.achieved),
    }
