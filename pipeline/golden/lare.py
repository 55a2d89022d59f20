"""Vectors of LaRe: rewards of a linear decoder by step, their sums by trajectory, and the losses of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.credit.lare import linear_rewards, redistributed_returns, return_loss, sampled_return_loss
from pipeline.golden.forest import turns


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The losses over drawn steps only where the steps are given."""
    found = turns(given["nodes"])
    weight = np.array(params["decoder_weight"], dtype=np.float64)
    latent = np.array([node["latent"] for node in found.nodes], dtype=np.float64).reshape(len(found.nodes), len(weight))
    rewards = linear_rewards(latent, weight=weight, bias=params.get("decoder_bias") or 0.0)
    returns, offsets = found.last("episode_return", 0.0), found.offsets
    losses = {"rd_loss": return_loss(rewards, returns, offsets=offsets)}
    steps = params.get("sampled_steps")
    if steps is not None:
        drawn = {
            "sampled": np.array([step for some in steps for step in some], dtype=np.int64),
            "sampled_offsets": np.cumsum([0, *map(len, steps)], dtype=np.int64),
        }
        losses["rrd_loss"] = sampled_return_loss(rewards, returns, offsets=offsets, **drawn)
        losses["rrd_unbiased_loss"] = sampled_return_loss(rewards, returns, offsets=offsets, unbiased=True, **drawn)
    return {
        "proxy_reward": found.by_id(rewards),
        "redistributed_return": found.by_trajectory(redistributed_returns(rewards, offsets)),
        **losses,
    }
