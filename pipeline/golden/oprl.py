"""Vectors of OPRL: step rewards, four forms of the advantage, scores of trajectories and the reward model's loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from pipeline.credit.oprl import (
    OprlParams,
    StepAdvantages,
    preference_pairs,
    prm_loss,
    step_advantages,
    step_rewards,
    trajectory_scores,
)
from pipeline.credit.ragged import ragged
from pipeline.errors import BadConfig
from pipeline.golden.forest import Turns, turns
from pipeline.golden.nodes import chosen

_FORMS = {
    "code_rloo": ("rloo", "first_steps"),
    "code_grpo_mean_norm": ("mean_norm", "first_steps"),
    "code_grpo_mean_std_norm": ("mean_std_norm", "first_steps"),
    "all_steps_mean_norm": ("mean_norm", "all_steps"),
}
_TERMS = ("code_rloo", "all_steps_mean_norm")
_SUCCESS = "outcome>"
_PARAMS = tuple(field.name for field in fields(OprlParams))


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """By step and by trajectory."""
    found, options = turns(given["nodes"]), _options(params)
    ratios = ragged(node.get("logratio") or [] for node in found.nodes)
    outcomes = found.last("outcome", 0.0)
    rewards = step_rewards(ratios, params=OprlParams(**options))
    scores = trajectory_scores(rewards.raw, found.offsets, params=OprlParams(**options))
    pairs = preference_pairs(outcomes, found.groups, params=OprlParams(**options))
    blocks = {}
    for block, (estimator, baseline) in _FORMS.items():
        advantages = step_advantages(
            rewards.normalised,
            outcomes,
            offsets=found.offsets,
            tasks=found.groups,
            token_counts=np.diff(ratios.offsets),
            params=OprlParams(**{**options, "estimator": estimator, "baseline": baseline}),
        )
        blocks[block] = _block(found, advantages, terms=block in _TERMS)
    return {
        "step_reward_raw": found.by_id(rewards.raw),
        "step_reward": found.by_id(rewards.normalised),
        **blocks,
        "trajectory_score": found.by_trajectory(scores),
        "prm_loss": prm_loss(scores, pairs),
    }


def _block(found: Turns, advantages: StepAdvantages, *, terms: bool) -> dict[str, Any]:
    block = {"advantage": found.by_id(advantages.advantage)}
    if terms:
        block["episode_advantage"] = found.by_id(advantages.episode)
        block["step_advantage"] = found.by_id(advantages.step)
    return block


def _options(params: Mapping[str, Any]) -> dict[str, Any]:
    success = str(params.get("success_if") or f"{_SUCCESS}0").replace(" ", "")
    try:
        return {**chosen(params, *_PARAMS), "success_above": float(success.removeprefix(_SUCCESS))}
    except ValueError as error:
        raise BadConfig(f"oprl success_if {success!r} is not known", remedy=f"use {_SUCCESS} and a number") from error
