"""Vectors of PPPO: prefixes with what they led to, or the share of a response after each validation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.credit.pppo import (
    PppoParams,
    RetentionParams,
    accumulated_rewards,
    pppo_advantages,
    prefix_tokens,
    retention,
)
from pipeline.golden.nodes import by_id, chosen, links, numbers


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """By prefix; or a share for each accuracy."""
    if "validation_accuracy" in given:
        accuracies = numbers([{"accuracy": value} for value in given["validation_accuracy"]], "accuracy")
        options = RetentionParams(**chosen(params, "eta0", "step", "eta_max", "patience"))
        return {"eta_after_each": retention(accuracies, options)}
    options = PppoParams(**chosen(params, "eta", "std_ddof", "std_eps"))
    nodes, way = given["nodes"], links(given["nodes"])
    prefix = np.array([node.get("kind") == "prefix" for node in nodes])
    children = np.flatnonzero((way.parent >= 0) & prefix[way.parent])
    rest = children[[nodes[row].get("origin") == "sample" for row in children]]
    lengths = numbers(nodes, "n_tokens", 0)
    np.add.at(lengths, way.parent[rest], lengths[rest])
    earned = accumulated_rewards(numbers(nodes, "reward")[children], way.parent[children], count=len(nodes))[prefix]
    trained = prefix_tokens(lengths[prefix], options.eta)
    groups = np.unique(way.root[prefix], return_inverse=True)[1]
    own = [nodes[row] for row in np.flatnonzero(prefix)]
    return {
        "prefix_tokens": by_id(own, trained),
        "accumulated_reward": by_id(own, earned),
        "advantage": by_id(own, pppo_advantages(earned, groups, options)),
        "trained_tokens": int(trained.sum()),
        "loss_denominator_tokens": int(lengths[prefix].sum()),
    }
