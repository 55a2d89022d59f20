"""InT rows out of kept interventions."""

from __future__ import annotations

from typing import Any

from pipeline.trees.grow import Tree
from pipeline.variants.intervene import Clone, patch_row


def best_interventions(variants: list[dict[str, Any]], *, most: int) -> list[dict[str, Any]]:
    """The kept interventions of a task, most accurate first, then the earliest; at most so many."""
    kept = [variant for variant in variants if variant["kind"] == "intervention" and variant["dropped"] is None]
    kept.sort(key=lambda variant: (-variant["with_successes"] / variant["with_count"], variant["source_leaf"]))
    return kept[:most]


def patch(tree: Tree, variant: dict[str, Any], *, suite: str, separator: str, clone: Clone) -> dict[str, Any]:
    """The training row of one kept intervention."""
    node = variant["first_node"]
    prompt, *prefix = [tree[step]["token_ids"] for step in tree.path(node)[:-1]]
    input_ids, labels = patch_row(prompt, prefix, tree[node]["token_ids"], clone=clone)
    return {
        "task": tree.task,
        "row": variant["variant"],
        "suite": suite,
        "tree": tree.tree,
        "node": node,
        "input_ids": input_ids,
        "labels": labels,
        "accuracy": variant["with_successes"] / variant["with_count"],
        "text": separator.join(tree.texts(node)),
    }
