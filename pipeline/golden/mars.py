"""Vectors of MARS: the paper's form and the official pipeline."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from pipeline.credit.mars import MarsParams, mars, mars_official
from pipeline.golden.forest import turns
from pipeline.golden.nodes import chosen

_PARAMS = tuple(field.name for field in fields(MarsParams))


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """By turn."""
    found = turns(given["nodes"])
    options = MarsParams(**chosen(params, *_PARAMS))
    pooled = params.get("group_by") or ("tag", "agent")
    pools = _codes(tuple(node.get(field) for field in pooled) for node in found.nodes)
    rewards, tokens = found.column("reward", 0.0), found.column("n_tokens", 0, np.int64)
    paper = mars(rewards, found.offsets, pools=pools, params=options)
    official = mars_official(
        rewards,
        found.offsets,
        pools=pools,
        seats=_codes(node.get("agent") for node in found.nodes),
        token_counts=tokens,
        params=options,
    )
    return {
        "paper": {"return": found.by_id(paper.returns), "advantage": found.by_id(paper.advantage)},
        "code": {
            "normalised_turn_reward": found.by_id(official.normalised_reward),
            "advantage_before_whitening": found.by_id(official.before_whitening),
            "advantage_whitened": found.by_id(official.whitened),
        },
    }


def _codes(keys: Iterable[Hashable]) -> np.ndarray:
    codes: dict[Hashable, int] = {}
    return np.array([codes.setdefault(key, len(codes)) for key in keys], dtype=np.int64)
