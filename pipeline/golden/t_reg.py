"""Vectors of T-REG: token rewards, losses, the weight and the gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.credit.t_reg import token_rewards
from pipeline.golden.dpo import side
from pipeline.metrics.preference import TRegParams, t_reg

_SIDES = ("chosen", "rejected")
_OPTIONS = ("beta", "alpha", "sequence_weighting", "base_loss", "gamma")


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Of the one pair of the case. Implicit rewards stand only where the base loss has a reference."""
    options = TRegParams(**{name: params[name] for name in _OPTIONS if name in params})
    columns = {name: side([given], name) for name in _SIDES}
    rewards = {
        name: token_rewards(
            *(np.array(given[name][f"logprobs_{aim}_prompt"], np.float64) for aim in ("better", "worse"))
        )
        for name in _SIDES
    }
    found = t_reg(columns["chosen"], columns["rejected"], tuple(rewards.values()), options)
    answered = {
        "token_rewards": rewards,
        "sequence_reward": dict(zip(_SIDES, (reward[0] for reward in found.rewards))),
        "preference_loss": found.preference_loss[0],
        "sequence_weight": found.weight[0],
        "reg_loss": dict(zip(_SIDES, (loss[0] for loss in found.regularisers))),
        "total_loss": found.total[0],
        "grad_wrt_policy_logprobs": dict(zip(_SIDES, found.gradients)),
    }
    if options.base_loss == "dpo":
        answered["implicit_token_rewards"] = {
            name: options.beta * (columns[name].policy - columns[name].reference) for name in _SIDES
        }
    return answered
