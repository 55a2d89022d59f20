"""Vectors of Trust-GRPO: one group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from pipeline.credit.ragged import ragged
from pipeline.credit.trust_grpo import TrustParams, trust_grpo
from pipeline.golden.nodes import chosen

_PARAMS = tuple(field.name for field in fields(TrustParams))
_NAMES = {"steps": "step", "T": "total_steps"}


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Of the group and its trajectories."""
    outcomes = np.array(given["outcome_rewards"], np.float64)
    thinking = ragged([given["thinking_rewards"]]).values
    renamed = {_NAMES.get(name, name): value for name, value in params.items()}
    options = TrustParams(**chosen(renamed, *_PARAMS))
    found = trust_grpo(outcomes, thinking, np.zeros(len(outcomes), np.int64), options)
    return {
        "mu_correct": found.mu_correct[0],
        "mu_wrong": found.mu_wrong[0],
        "gamma": found.trust[0],
        "logged_gamma": found.logged_trust[0],
        "anneal": found.anneal,
        "used_thinking_rewards": found.thinking,
        "rewards": found.rewards,
        "advantages": found.advantages,
    }
