"""Vectors of VSRM: one response, its cuts by token and the accuracies measured there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.credit.ragged import ragged
from pipeline.credit.vsrm import VsrmParams, step_rewards, token_rewards
from pipeline.golden.nodes import chosen


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Reward of each cut, and the token rewards that are not 0."""
    options = VsrmParams(**chosen(params, "gamma", "max_lookahead", "zero_tol", "n_answers"))
    positions = np.array(given["split_token_positions"], np.int64)
    cuts, length = np.array([0, len(positions)]), int(given["response_tokens"])
    rewards = step_rewards(ragged([given["prefix_accuracies"]]), cuts, options)
    outcome = given.get("outcome_reward")
    placed = token_rewards(
        rewards,
        cuts,
        positions=positions,
        offsets=np.array([0, length]),
        outcomes=np.array([0.0 if outcome is None else outcome]),
    )
    return {
        "step_reward_at_split": dict(zip(positions.tolist(), rewards, strict=True)),
        "token_rewards_nonzero": {int(place): placed[place] for place in np.flatnonzero(placed)},
    }
