"""Preference pairs out of trees. Token ids come from the nodes; answers that read the same make no pair."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from pipeline.trees.fork import Attempt, attempts_of
from pipeline.trees.grow import Tree

Rewards = dict[tuple[str, int], float]


def outcome_pairs(tree: Tree, rewards: Rewards, *, suite: str) -> Iterator[dict[str, Any]]:
    """A right sample against a wrong one of the same task, the whole answers.

    Those that share the longest beginning come first: they differ in little but what went wrong.
    """
    attempts = attempts_of(tree, rewards)
    right = [attempt for attempt in attempts if attempt.reward >= 1]
    wrong = [attempt for attempt in attempts if attempt.reward < 1]
    both = sorted(product(right, wrong), key=lambda pair: -_shared(tree, *pair))
    for chosen, rejected in both:
        yield _row(tree, 0, chosen.leaf, rejected.leaf, rewards, source="outcome", suite=suite)


def fork_pairs(tree: Tree, rewards: Rewards, *, suite: str) -> Iterator[dict[str, Any]]:
    """A right continuation against a wrong one of the same prefix, from the step after it on."""
    by_fork: dict[int, list[tuple[int, float]]] = {}
    for branch in attempts_of(tree, rewards, origin="branch"):
        fork = next(tree[step]["parent"] for step in branch.steps if tree[step]["origin"] == "branch")
        by_fork.setdefault(fork, []).append((branch.leaf, branch.reward))
    for fork, leaves in by_fork.items():
        right = [leaf for leaf, reward in leaves if reward >= 1]
        wrong = [leaf for leaf, reward in leaves if reward < 1]
        for chosen, rejected in zip(right, wrong, strict=False):
            yield _row(tree, fork, chosen, rejected, rewards, source="step", suite=suite)


def retry_pairs(
    tree: Tree, rewards: Rewards, variants: list[dict[str, Any]], *, suite: str
) -> Iterator[dict[str, Any]]:
    """A retry that succeeded, under the task's own prompt, against the attempt it was made from."""
    for variant in variants:
        if variant["kind"] == "retry" and variant["first_node"] is not None:
            leaf = tree.last_of(variant["first_node"])
            if rewards.get((tree.tree, leaf), 0.0) >= 1:
                yield _row(tree, 0, leaf, variant["source_leaf"], rewards, source="retry", suite=suite)


def distinct(rows: Iterator[dict[str, Any]], *, most: int) -> list[dict[str, Any]]:
    """The first `most` rows whose token ids differ from each other's and whose two answers differ."""
    seen, kept = set(), []
    for row in rows:
        key = (tuple(row["prompt_ids"]), tuple(row["chosen_ids"]), tuple(row["rejected_ids"]))
        if len(kept) < most and key not in seen and key[1] != key[2]:
            seen.add(key)
            kept.append(row)
    return kept


def _shared(tree: Tree, one: Attempt, other: Attempt) -> int:
    """Steps at the beginning that are the same tokens in both."""
    count = 0
    for left, right in zip(one.steps, other.steps, strict=False):
        if tree[left]["token_ids"] != tree[right]["token_ids"]:
            break
        count += 1
    return count


def _row(
    tree: Tree, fork: int, chosen: int, rejected: int, rewards: Rewards, *, source: str, suite: str
) -> dict[str, Any]:
    prompt = tree.tokens(fork)
    answers = [tree.tokens(leaf)[len(prompt) :].tolist() for leaf in (chosen, rejected)]
    skip = len(tree.texts(fork))
    texts = ["\n".join(tree.texts(leaf)[skip:]) for leaf in (chosen, rejected)]
    return {
        "task": tree.task,
        "row": f"{tree.tree}/{source}/{chosen}/{rejected}",
        "suite": suite,
        "tree": tree.tree,
        "chosen_node": chosen,
        "rejected_node": rejected,
        "source": source,
        "prompt_ids": prompt.tolist(),
        "chosen_ids": answers[0],
        "rejected_ids": answers[1],
        "margin": rewards[tree.tree, chosen] - rewards[tree.tree, rejected],
        "prompt": "\n".join([tree[0]["text"], *tree.texts(fork)]),
        "chosen": texts[0],
        "rejected": texts[1],
    }
