"""Vectors of GiGPO: returns, groups of steps from the same state, and both advantages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from pipeline.credit.anchors import NO_STATE
from pipeline.credit.gigpo import GigpoParams, gigpo
from pipeline.credit.tool_calls import canonical
from pipeline.golden.forest import Turns, turns
from pipeline.golden.nodes import chosen

_PARAMS = tuple(field.name for field in fields(GigpoParams))


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """By step; the groups as lists of steps, in the order of their first."""
    found, options = turns(given["nodes"]), GigpoParams(**chosen(params, *_PARAMS))
    steps = gigpo(
        found.column("reward", 0.0),
        found.offsets,
        tasks=found.groups,
        states=_texts(found) if options.enable_similarity else _codes(found),
        valid=found.column("valid", True, bool),
        params=options,
    )
    groups: dict[int, list[str]] = {}
    for name, group in zip(found.ids, steps.group.tolist(), strict=True):
        groups.setdefault(group, []).append(name)
    return {
        "discounted_return": found.by_id(steps.discounted_return),
        "step_reward_after_penalty": found.by_id(steps.step_reward),
        "step_groups": [groups[group] for group in sorted(groups)],
        "step_group_id": found.by_id(steps.group),
        "step_group_size": found.by_id(steps.group_size),
        "episode_advantage": found.by_id(steps.episode_advantage),
        "step_advantage": found.by_id(steps.step_advantage),
        "advantage": found.by_id(steps.advantage),
    }


def _codes(found: Turns) -> np.ndarray:
    codes: dict[Any, int] = {}
    keys = _states(found, "state_hash", "state_text")
    return np.array(
        [NO_STATE if key is None else codes.setdefault(canonical(key), len(codes)) for key in keys], np.int64
    )


def _texts(found: Turns) -> list[str | None]:
    return [None if key is None else str(key) for key in _states(found, "state_text", "state_hash")]


def _states(found: Turns, name: str, other: str) -> list[Any]:
    """A field of each step; where it has none, or null, the other one."""
    return [node.get(other) if node.get(name) is None else node[name] for node in found.nodes]
