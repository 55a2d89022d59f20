"""Vectors of EPO: weights by strategy turn, losses by episode and of the batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from pipeline.credit.epo import EpoParams, episode_losses, turn_weights
from pipeline.golden.forest import turns
from pipeline.golden.nodes import chosen

STRATEGIST = "strategist"
_PARAMS = tuple(field.name for field in fields(EpoParams))


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Turns of others than the strategist are passed over; an episode's score stands on its last turn, whosever."""
    everyone = turns(given["nodes"])
    scores = dict(zip(everyone.trajectories, everyone.last("episode_score", 0.0), strict=True))
    found = turns([node for node in given["nodes"] if (node.get("agent") or STRATEGIST) == STRATEGIST])
    logprobs = [node.get("logprobs") or [] for node in found.nodes]
    weights = turn_weights(
        found.column("key", False, bool),
        np.array([scores[name] for name in found.trajectories], dtype=np.float64),
        offsets=found.offsets,
        params=EpoParams(**chosen(params, *_PARAMS)),
    )
    losses = episode_losses(
        weights.weight,
        np.array([logprob for some in logprobs for logprob in some], dtype=np.float64),
        token_offsets=np.cumsum([0, *map(len, logprobs)], dtype=np.int64),
        offsets=found.offsets,
    )
    return {name: found.by_id(values) for name, values in weights._asdict().items()} | {
        "episode_loss": dict.fromkeys(everyone.trajectories, 0.0) | found.by_trajectory(losses),
        "batch_loss": losses.sum(),
    }
