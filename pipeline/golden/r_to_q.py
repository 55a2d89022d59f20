"""Vectors of r to Q*: rewards from log-probabilities, or Q and V from logits, of one response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.credit.r_to_q import RToQParams, implicit_rewards, q_from_logits
from pipeline.credit.ragged import ragged, split
from pipeline.errors import BadConfig

_OPS = ("implicit_rewards", "q_from_logits")


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What the word `op` asks for."""
    options = RToQParams(**{"beta": params["beta"]} if "beta" in params else {})
    op = params.get("op", _OPS[0])
    if op not in _OPS:
        raise BadConfig(f"r_to_q op {op!r} is not known", remedy=f"use one of {_OPS}")
    return _rewards(options, given) if op == "implicit_rewards" else _soft_q(options, given)


def _rewards(options: RToQParams, given: Mapping[str, Any]) -> dict[str, Any]:
    policy = ragged(step["logprobs_policy"] for step in given["steps"])
    reference = ragged(step["logprobs_reference"] for step in given["steps"])
    found = implicit_rewards(policy, reference, steps=np.array([0, len(given["steps"])]), params=options)
    return {
        "token_rewards": split(found.token_rewards, policy.offsets),
        "step_rewards": found.step_rewards,
        "sequence_reward": found.sequence_rewards[0],
        "value_change_from_start": found.value_change,
        "reward_to_go": found.reward_to_go,
        "step_end_value_change": found.step_end_value_change,
    }


def _soft_q(options: RToQParams, given: Mapping[str, Any]) -> dict[str, Any]:
    actions = np.array(given["actions"], np.int64)
    policy, reference = (np.array(given[f"{name}_logits"], np.float64) for name in ("policy", "reference"))
    found = q_from_logits(policy, reference, actions=actions, offsets=np.array([0, len(actions)]), params=options)
    return {
        "V": found.value,
        "Q_taken": found.q_taken,
        "advantage_taken": found.advantage,
        "policy_logprob_taken": found.logprobs,
        "dpo_token_reward": found.token_rewards,
        "bellman_reward": found.bellman_rewards,
        "sum_dpo_token_reward": found.sequence_rewards[0],
        "sum_bellman_reward_minus_V0": found.bellman_less_start[0],
    }
