"""Vectors of ArCHer: returns, targets, losses and advantages, from given outputs of the critic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from pipeline.credit.archer import ArcherParams, actor_loss, advantages, critic_loss, critic_targets, returns
from pipeline.credit.ragged import ragged
from pipeline.golden.forest import Turns, turns
from pipeline.golden.nodes import chosen

_PARAMS = tuple(field.name for field in fields(ArcherParams))


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """By utterance, and losses of all. Without an utterance drawn anew the stored one is taken."""
    found, options = turns(given["nodes"]), ArcherParams(**chosen(params, *_PARAMS))
    rewards = found.column("reward", 0.0)
    earned = returns(rewards, found.offsets, params=options)
    stored, values = _heads(found, "q"), _heads(found, "v")
    targets = critic_targets(
        rewards,
        found.column("done", False, bool),
        next_values=_heads(found, "target_v_next"),
        policy_values=_heads(found, "target_q_pi"),
        params=options,
    )
    drawn = _heads(found, "q_pi")
    advantage = advantages(np.where(np.isnan(drawn), stored, drawn), values)
    actor = actor_loss(advantage, ragged(node.get("pi_logprobs") or [] for node in found.nodes))
    return {
        "trajectory_reward": found.by_id(earned.trajectory_reward),
        "mc_return": found.by_id(earned.monte_carlo),
        "target_q1": found.by_id(targets.q[0]),
        "target_q2": found.by_id(targets.q[1]),
        "target_v1": found.by_id(targets.v[0]),
        "target_v2": found.by_id(targets.v[1]),
        "critic_loss": critic_loss(stored, values, targets),
        "advantage": found.by_id(advantage),
        "utterance_pg_term": found.by_id(actor.terms),
        "actor_loss": actor.loss,
    }


def _heads(found: Turns, name: str) -> np.ndarray:
    return np.stack([found.column(f"{name}{head}", np.nan) for head in (1, 2)])
