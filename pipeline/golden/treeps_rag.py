"""Vectors of TreePS-RAG: values, leaves and every advantage; `pruned` marks nodes taken out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.credit.treeps_rag import MODES, TreepsRagParams, treeps_rag
from pipeline.golden.nodes import by_id, chosen, links, numbers


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """By node; a leaf without a reward met the step limit and has 0."""
    nodes = given["nodes"]
    way = links(nodes)
    pruned = np.array([bool(node.get("pruned")) for node in nodes], dtype=bool)
    below, found = way.parent >= 0, {}
    for mode in MODES:
        found[mode] = treeps_rag(
            way.parent,
            way.depth,
            reward=numbers(nodes, "reward", 0.0),
            pruned=pruned,
            params=TreepsRagParams(mode=mode, **chosen(params, "whiten", "ddof", "eps")),
        )
    by_mode = {mode: by_id(nodes, found[mode].advantage, below) for mode in MODES}
    return {
        "value": by_id(nodes, found["local"].value),
        "n_leaves": by_id(nodes, found["local"].leaves),
        "advantage": by_mode[params.get("mode") or "combined"],
    } | {f"advantage_{mode}": values for mode, values in by_mode.items()}
