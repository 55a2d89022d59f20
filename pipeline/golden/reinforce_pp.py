"""Vectors of REINFORCE++: the whitened returns of the tokens of a batch, each leaf paid with its last token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.credit.ragged import last_places, split
from pipeline.credit.reinforce_pp import ReinforcePPParams, reinforce_pp
from pipeline.golden.forest import forest
from pipeline.golden.nodes import chosen


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Advantages of the tokens of each leaf."""
    found = forest(given["nodes"], unfinished=params.get("unfinished_penalty") or 0.0)
    trees, ends = found.trees, found.ends()
    offsets = np.concatenate(([0], np.cumsum(trees.paths(ends).token_counts(trees))))
    rewards = np.zeros(offsets[-1])
    paid, last = last_places(offsets)
    rewards[last] = trees.reward[ends[paid]]
    advantages = reinforce_pp(rewards, offsets, ReinforcePPParams(**chosen(params, "gamma", "eps", "ddof")))
    names = (found.ids[row] for row in ends)
    return {"token_advantages": dict(zip(names, split(advantages, offsets), strict=True))}
