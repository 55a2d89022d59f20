"""Vectors of SPO-tree: both advantages, values, spreads and which nodes are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.credit.columns import ZERO, Trees
from pipeline.credit.spo_tree import SpoTreeParams, best_of_gain, node_values, spo_tree, value_std
from pipeline.golden.forest import forest
from pipeline.golden.nodes import Node, chosen


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What SPO-tree says of every node, the root's value included."""
    found = forest(given["nodes"], unfinished=params.get("unfinished_penalty") or 0.0)
    trees, value = found.trees, node_values(found.trees)
    options = chosen(params, "std_ddof", "std_eps")
    centred = spo_tree(trees, SpoTreeParams(advantage="centred", **options))
    scaled = spo_tree(trees, SpoTreeParams(advantage="std", **options))
    kept = np.abs(centred.advantage) > ZERO
    return {
        "value": found.by_id(value, roots=True),
        "value_std": found.by_id(value_std(trees, value, ddof=options.get("std_ddof", 0)), roots=True),
        "advantage_centred": found.by_id(centred.advantage),
        "advantage_std": found.by_id(scaled.advantage),
        "bok4_gain": found.by_id(best_of_gain(trees, value, samples=params.get("bok", 4))),
        "kept_nodes": [found.ids[row] for row in depth_first(trees) if kept[row] and _says(found.nodes[row])],
    }


def depth_first(trees: Trees) -> list[int]:
    """The rows of all trees, each before its children, children in order."""
    children: list[list[int]] = [[] for _ in trees.parent]
    for row, above in enumerate(trees.parent.tolist()):
        if above >= 0:
            children[above].append(row)
    order, waiting = [], np.flatnonzero(trees.parent < 0)[::-1].tolist()
    while waiting:
        row = waiting.pop()
        order.append(row)
        waiting += reversed(children[row])
    return order


def _says(node: Node) -> bool:
    """Whether a node has text, as far as the vector tells."""
    return node.get("text") != "" and node.get("n_tokens") != 0
