"""Vectors of MALT: values, labels, outputs to imitate and preference pairs, by role."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pipeline.builders.malt import ROLES, by_role, good_rows, sibling_pairs
from pipeline.credit.malt import MaltParams, node_labels
from pipeline.credit.spo_tree import node_values
from pipeline.golden.forest import forest

_OPTIONS = ("threshold", "comparison")


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Of every output below the task. Levels are any lists of nodes, one inside the other."""
    nodes = list(_nodes(given, None))
    outputs = [{"id": node["node_id"], "parent": above or ""} | _reward(node) for node, above in nodes]
    found = forest([{"id": "", "parent": None}, *outputs], unfinished=np.nan)
    trees, ids = found.trees, np.array(found.ids)
    options = MaltParams(**{name: params[name] for name in _OPTIONS if name in params})
    values = node_values(trees)
    labels = node_labels(trees, values, options)
    levels = {int(trees.depth[row]): node["agent"] for row, (node, _) in enumerate(nodes, start=1)}
    seen = [levels[level] for level in sorted(levels)]
    roles = ROLES if seen == list(ROLES[: len(seen)]) else seen
    good = good_rows(trees, labels)
    pairs = sibling_pairs(trees, labels, max_pairs_per_parent=params.get("max_pairs_per_parent"))
    return {
        "values": found.by_id(values),
        "labels": {name: bool(label) for name, label in found.by_id(labels).items() if not np.isnan(label)},
        "sft_positive_nodes": {role: ids[good[own]] for role, own in by_role(trees.depth[good], roles)},
        "dpo_pairs": {role: ids[pairs[own]] for role, own in by_role(trees.depth[pairs[:, 0]], roles)},
    }


def _nodes(given: Mapping[str, Any], above: str | None) -> Iterator[tuple[Mapping[str, Any], str | None]]:
    """Each node with the id of the one it is inside of, depth first."""
    for value in given.values():
        for node in value if isinstance(value, list) else ():
            if isinstance(node, Mapping) and "node_id" in node:
                yield node, above
                yield from _nodes(node, node["node_id"])


def _reward(node: Mapping[str, Any]) -> dict[str, float]:
    """The verdict of an output; NaN where the call failed."""
    return {"reward": np.nan if node.get("reward") is None else float(node["reward"])}
