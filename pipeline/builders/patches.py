"""InT rows out of kept interventions."""

from __future__ import annotations

from typing import Any

from pipeline.trees.grow import Tree
from pipeline.variants.intervene import MASKED, NO_SUCCESS, Clone, Continuations, patch_row


def best_interventions(variants: list[dict[str, Any]], *, most: int, clone: Clone) -> list[dict[str, Any]]:
    """The kept interventions of a task, most accurate first, then the earliest; at most so many.

    Of edits that stand at one node the first: they train the same tokens. `no_filter` keeps those without a successful
    continuation too.
    """
    kept = (None, NO_SUCCESS) if clone == "no_filter" else (None,)
    found = [variant for variant in variants if variant["kind"] == "intervention" and variant["dropped"] in kept]
    found.sort(key=lambda variant: (-_accuracy(variant), variant["source_leaf"]))
    by_node: dict[int, dict[str, Any]] = {}
    for variant in found:
        by_node.setdefault(variant["first_node"], variant)
    return list(by_node.values())[:most]


def patch(
    tree: Tree,
    variant: dict[str, Any],
    *,
    suite: str,
    separator: str,
    clone: Clone,
    rewards: dict[tuple[str, int], float],
) -> dict[str, Any]:
    """The training row of one kept intervention. What an environment showed between turns is not trained.

    Args:
        rewards: by tree and leaf; `with_suffix` takes the first right continuation from them.
    """
    node = variant["first_node"]
    path = tree.path(node)
    after = _first_success(tree, node, rewards) if clone == "with_suffix" else []
    prompt, *prefix = [tree[step]["token_ids"] for step in path[:-1]]
    suffix = [token for step in after for token in tree[step]["token_ids"]]
    input_ids, labels = patch_row(prompt, prefix, tree[node]["token_ids"], clone=clone, suffix=suffix)
    shown = [tree[step]["kind"] == "prompt" for step in (*path, *after) for _ in tree[step]["token_ids"]]
    return {
        "task": tree.task,
        "row": variant["variant"],
        "suite": suite,
        "tree": tree.tree,
        "node": node,
        "input_ids": input_ids,
        "labels": [MASKED if rendered else label for rendered, label in zip(shown, labels, strict=True)],
        "accuracy": _accuracy(variant),
        "text": separator.join(tree.texts(node)),
    }


def _accuracy(variant: dict[str, Any]) -> float:
    """Right ones among the judged continuations; 0 where none was judged."""
    return Continuations(variant["with_count"] or 0, variant["with_successes"] or 0).accuracy


def _first_success(tree: Tree, node: int, rewards: dict[tuple[str, int], float]) -> list[int]:
    """Nodes of the earliest right continuation of a node; none where there is none."""
    for leaf, row in tree.known.items():
        if row["origin"] == "continuation" and rewards.get((tree.tree, leaf), 0) >= 1 and node in tree.path(leaf):
            path = tree.path(leaf)
            return path[path.index(node) + 1 :]
    return []
