"""Vectors of group advantages: every convention on the same trajectories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.credit.group import CONVENTIONS, GroupParams, group_advantages
from pipeline.golden.forest import forest
from pipeline.golden.nodes import chosen


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Advantage of each leaf, by convention."""
    found = forest(given["nodes"], unfinished=params.get("unfinished_penalty") or 0.0)
    trees, ends = found.trees, found.ends()
    lengths = trees.paths(ends).token_counts(trees)
    by_convention = {}
    for convention in CONVENTIONS:
        options = GroupParams(convention=convention, **chosen(params, "verl_eps", "trl_eps", "ddof"))
        advantages = group_advantages(trees.reward[ends], trees.tree[ends], lengths=lengths, params=options)
        by_convention[convention] = dict(zip(np.array(found.ids)[ends].tolist(), advantages, strict=True))
    return {"trajectory_advantage": by_convention}
