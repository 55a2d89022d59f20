"""Vectors of turn control: limits, and recorded runs replayed under them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from pipeline.generation.budget.turn_control import TurnParams, replay, turn_limits
from pipeline.golden.forest import Node
from pipeline.golden.nodes import chosen

_PARAMS = tuple(field.name for field in fields(TurnParams))


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """By run; a run about whose extension nothing is recorded is granted it."""
    options = TurnParams(**chosen(params, *_PARAMS))
    limits = turn_limits(np.array(given.get("baseline_turns") or [], dtype=np.float64), options)
    runs: Node = given["turns_needed"]
    grants = given.get("extension_granted")
    if not isinstance(grants, Mapping):
        grants = dict.fromkeys(runs, grants)
    found = replay(
        np.array(list(runs.values()), dtype=np.float64),
        np.array([grants.get(run) is not False for run in runs], dtype=bool),
        limits,
        options,
    )
    return {
        "limit": limits.first,
        "hard_limit": limits.last,
        "turns_used": dict(zip(runs, found.used, strict=True)),
        "finished": dict(zip(runs, found.finished, strict=True)),
        "extended": dict(zip(runs, found.extended, strict=True)),
        "turns_left_at_end": dict(zip(runs, found.left, strict=True)),
        "total_turns": found.used.sum(),
        "n_finished": found.finished.sum(),
    }
