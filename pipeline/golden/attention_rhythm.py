"""Vectors of attention rhythm: the tokens of one response, or the grouping of heads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from pipeline.credit.attention_rhythm import RhythmParams, amplify, attention_rhythm, group_heads
from pipeline.errors import BadConfig
from pipeline.golden.nodes import chosen

_PARAMS = tuple(field.name for field in fields(RhythmParams))
_NAMES = {
    "W": "window",
    "H_lo": "nearest",
    "H_hi": "farthest",
    "q": "top",
    "gamma_amp": "amplification",
    "k": "reach",
}


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What the word `op` asks for; without one, the tokens."""
    match params.get("op"):
        case None:
            renamed = {_NAMES.get(name, name): value for name, value in params.items()}
            return _tokens(RhythmParams(**chosen(renamed, *_PARAMS)), given)
        case "group_heads":
            return _heads(params.get("quantile", 0.3), given)
        case other:
            raise BadConfig(f"attention_rhythm op {other!r} is not known", remedy="use 'group_heads', or leave it out")


def _tokens(options: RhythmParams, given: Mapping[str, Any]) -> dict[str, Any]:
    local, far = (np.array(given[f"attention_{name}_mean"], np.float64) for name in ("local", "global"))
    found = attention_rhythm(local, far, given["response_start"], options)
    advantage = np.array(given.get("advantage", np.nan), np.float64)
    return {
        "waad": found.waad,
        "fai": found.fai,
        "delta": found.delta,
        "preplan_tokens": found.preplan,
        "anchor_tokens": found.anchors,
        "gamma": found.gamma,
        "tau_waad": found.tau_waad,
        "tau_delta": found.tau_delta,
        "dominated_anchors": found.dominated,
        "intro_of": dict(zip(found.dominated.tolist(), found.introductions, strict=True)),
        "token_advantages": amplify(advantage, found.gamma),
    }


def _heads(quantile: float, given: Mapping[str, Any]) -> dict[str, Any]:
    names = sorted(given["maps"], key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
    maps = np.array([given["maps"][name] for name in names], np.float64)
    found = group_heads(maps, given["response_start"], quantile=quantile)
    return {
        "mean_distance": dict(zip(names, found.distances, strict=True)),
        "local_heads": [names[head] for head in found.near],
        "global_heads": [names[head] for head in found.far],
    }
