"""Preference pairs out of trees. Token ids come from the nodes; answers that read the same make no pair."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from pipeline.builders.roles import role_pairs
from pipeline.trees.fork import Attempt, attempts_of
from pipeline.trees.grow import Tree

Rewards = dict[tuple[str, int], float]


def outcome_pairs(tree: Tree, rewards: Rewards, *, suite: str, separator: str) -> Iterator[dict[str, Any]]:
    """A right sample against a wrong one of the same task, the whole answers.

    Those that share the longest beginning come first: they differ in little but what went wrong. Of episodes the first
    turns that differ, after the same tokens, alone: what is shown later is nobody's to learn.
    """
    attempts = attempts_of(tree, rewards)
    right = [attempt for attempt in attempts if attempt.reward >= 1]
    wrong = [attempt for attempt in attempts if attempt.reward < 1]
    both = sorted(product(right, wrong), key=lambda pair: -_shared(tree, *pair))
    for chosen, rejected in both:
        margin = chosen.reward - rejected.reward
        if not any(tree[node]["kind"] == "prompt" for node in (*chosen.steps, *rejected.steps)):
            yield _row(tree, 0, chosen.leaf, rejected.leaf, margin, source="outcome", suite=suite, separator=separator)
        elif turns := _turns_apart(tree, chosen, rejected):
            yield _row(
                tree, tree[turns[0]]["parent"], *turns, margin, source="outcome", suite=suite, separator=separator
            )


def fork_pairs(tree: Tree, rewards: Rewards, *, suite: str, separator: str) -> Iterator[dict[str, Any]]:
    """A right continuation against a wrong one of the same prefix, from the step after it on."""
    by_fork: dict[int, list[tuple[int, float]]] = {}
    for branch in attempts_of(tree, rewards, origin="branch"):
        fork = next(tree[step]["parent"] for step in branch.steps if tree[step]["origin"] == "branch")
        by_fork.setdefault(fork, []).append((branch.leaf, branch.reward))
    for fork, leaves in by_fork.items():
        right = [leaf for leaf, reward in leaves if reward >= 1]
        wrong = [leaf for leaf, reward in leaves if reward < 1]
        for chosen, rejected in zip(right, wrong, strict=False):
            yield _row(
                tree,
                fork,
                chosen,
                rejected,
                _margin(tree, chosen, rejected, rewards),
                source="step",
                suite=suite,
                separator=separator,
            )


def retry_pairs(
    tree: Tree, rewards: Rewards, variants: list[dict[str, Any]], *, suite: str, separator: str
) -> Iterator[dict[str, Any]]:
    """A retry that succeeded against the failed attempt it was made from, both without guidance and from where they
    depart on; of episodes the turns there alone."""
    for variant in variants:
        if variant["kind"] == "retry" and variant["first_node"] is not None:
            pivot, leaves = variant["pivot"], (tree.last_of(variant["first_node"]), variant["source_leaf"])
            margin = _margin(tree, *leaves, rewards)
            if rewards.get((tree.tree, leaves[0]), 0.0) >= 1 and margin > 0:
                ends = _ends_after(tree, pivot, *leaves)
                yield _row(tree, pivot, *ends, margin, source="retry", suite=suite, separator=separator)


def intervention_pairs(
    tree: Tree, variants: list[dict[str, Any]], *, suite: str, separator: str
) -> Iterator[dict[str, Any]]:
    """A step written anew against the one it replaces, each alone after the very same prefix (step-DPO).

    Of interventions that were kept and did no harm; the margin is their effect, or their success where the step they
    replace ended the attempt and had no continuations. Where none of its continuations was judged, there is no pair.
    """
    for variant in variants:
        if variant["kind"] != "intervention" or variant["dropped"] is not None:
            continue
        line, margin = tree.line(variant["source_leaf"]), variant["effect"]
        original = line[line.index(variant["pivot"]) + 1]
        if margin is None and tree[original]["finish"] is not None:
            margin = (variant["with_successes"] or 0) / (variant["with_count"] or 1)
        if margin is not None and margin > 0:
            nodes = (variant["pivot"], variant["first_node"], original)
            yield _row(tree, *nodes, margin, source="intervention", suite=suite, separator=separator)


def regeneration_pairs(
    tree: Tree, rewards: Rewards, variants: list[dict[str, Any]], *, suite: str, separator: str
) -> Iterator[dict[str, Any]]:
    """Of an attempt and what was drawn anew after a cut in it, the right one against the wrong one, from the cut on; of
    episodes the turns there alone."""
    for variant in variants:
        if variant["kind"] != "regeneration" or variant["first_node"] is None:
            continue
        leaves = (tree.last_of(variant["first_node"]), variant["source_leaf"])
        if any((tree.tree, leaf) not in rewards for leaf in leaves):
            continue
        wrong, right = sorted(leaves, key=lambda leaf: rewards[tree.tree, leaf])
        if rewards[tree.tree, wrong] < 1 <= rewards[tree.tree, right]:
            margin = rewards[tree.tree, right] - rewards[tree.tree, wrong]
            pivot = variant["pivot"]
            ends = _ends_after(tree, pivot, right, wrong)
            yield _row(tree, pivot, *ends, margin, source="regeneration", suite=suite, separator=separator)


def malt_pairs(tree: Tree, rewards: Rewards, *, suite: str, separator: str) -> Iterator[dict[str, Any]]:
    """A good output of a role against a bad one in the same context (MALT)."""
    for role, chosen, rejected, margin in role_pairs(tree, rewards):
        yield _row(
            tree, tree[chosen]["context"], chosen, rejected, margin, source=role, suite=suite, separator=separator
        )


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


def _turns_apart(tree: Tree, one: Attempt, other: Attempt) -> tuple[int, int] | None:
    """The first turns of two episodes that differ; None where one was shown something else before, or ends there."""
    same = _shared(tree, one, other)
    turns = (*one.steps[same : same + 1], *other.steps[same : same + 1])
    return turns if len(turns) == 2 and all(tree[node]["kind"] == "step" for node in turns) else None


def _ends_after(tree: Tree, fork: int, one: int, other: int) -> tuple[int, int]:
    """Where two answers that follow a node end: at their leaves, or at their first turns if anything is shown later."""
    ways = [tree.line(leaf) for leaf in (one, other)]
    own = [way[way.index(fork) + 1 :] for way in ways]
    shown = any(tree[node]["kind"] == "prompt" for way in own for node in way)
    return (own[0][0], own[1][0]) if shown else (one, other)


def _margin(tree: Tree, chosen: int, rejected: int, rewards: Rewards) -> float:
    """Reward of one leaf less that of another; -inf where one was not judged."""
    known = [rewards.get((tree.tree, leaf)) for leaf in (chosen, rejected)]
    return float("-inf") if None in known else known[0] - known[1]


def _row(
    tree: Tree, fork: int, chosen: int, rejected: int, margin: float, *, source: str, suite: str, separator: str
) -> dict[str, Any]:
    """The row of two answers that follow the same node."""
    prompt = tree.tokens(fork)
    answers = [tree.tokens(leaf)[len(prompt) :].tolist() for leaf in (chosen, rejected)]
    skip = len(tree.texts(fork))
    texts = [separator.join(tree.texts(leaf)[skip:]) for leaf in (chosen, rejected)]
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
        "margin": margin,
        "prompt": separator.join([tree[tree[fork]["context"]]["text"], *tree.texts(fork)]),
        "chosen": texts[0],
        "rejected": texts[1],
    }
