"""Vectors of Clip and Delta: one trajectory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from pipeline.credit.clip_delta import ClipDeltaParams, clip_delta
from pipeline.credit.ragged import ragged
from pipeline.golden.nodes import chosen

_PARAMS = tuple(field.name for field in fields(ClipDeltaParams))


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Rewards of its steps."""
    scores = ragged([given["process_rewards"]])
    outcomes = np.array([given["correct"]], np.float64)
    options = ClipDeltaParams(**chosen(params, *_PARAMS))
    return clip_delta(scores.values, scores.offsets, outcomes=outcomes, params=options)._asdict()
