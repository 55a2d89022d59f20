"""Vectors of PURE: a group by the first implementation, or padded rewards by the second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from pipeline.credit.pure import PureParams, pure, pure_padded
from pipeline.credit.ragged import Ragged, log_ratios, ragged, split
from pipeline.errors import BadConfig
from pipeline.golden.nodes import chosen

_PARAMS = tuple(field.name for field in fields(PureParams))
_SECOND = "second_implementation_rloo"


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What the word `op` asks for; without one, the first implementation."""
    if params.get("op") == _SECOND:
        return _second(params, given)
    if "op" in params:
        raise BadConfig(f"pure op {params['op']!r} is not known", remedy=f"use {_SECOND!r}, or leave it out")
    group = given["group"]
    scores = ragged(one["process_rewards"] for one in group)
    found = pure(
        scores.values,
        scores.offsets,
        token_counts=ragged((one["step_tokens"] for one in group), np.int64).values,
        solved=np.array([np.nan if one.get("solved") is None else one["solved"] for one in group], np.float64),
        groups=np.zeros(len(group), np.int64),
        log_ratios=_log_ratios(group),
        params=PureParams(**chosen(params, *_PARAMS)),
    )
    return {
        "weights_times_reward": split(found.weighted, found.kept_offsets),
        "outcome_reward": found.outcome,
        "shaped_token_rewards": split(found.token_rewards, found.offsets),
        "advantages": split(found.advantages, found.offsets),
    }


def _log_ratios(group: list[Mapping[str, Any]]) -> Ragged | None:
    if not group or "logprobs_policy" not in group[0]:
        return None
    policy = ragged(one["logprobs_policy"] for one in group)
    reference = ragged(one["logprobs_reference"] for one in group)
    return Ragged(log_ratios(policy, reference), policy.offsets)


def _second(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    rewards = ragged(given["token_rewards"])
    advantages, returns = pure_padded(
        rewards,
        ragged(given["response_mask"]).values > 0,
        groups=np.unique(given["group_ids"], return_inverse=True)[1],
        returns=params.get("return", "sum"),
        whiten=params.get("adv_norm", False),
        width=params.get("width"),
    )
    return {"advantages": split(advantages, rewards.offsets), "returns": split(returns, rewards.offsets)}
