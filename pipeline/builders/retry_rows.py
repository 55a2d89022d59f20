"""R3L rows out of stored retries: attempts, distilled retries, and what led to a success, with their advantages.

The records are those of `pipeline.builders.r3l`, told by nodes: what an attempt and its retry share is the same nodes,
which stay out of the loss.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from pipeline.credit.r3l import DEFAULTS, R3lParams, amplified_advantages
from pipeline.trees.fork import attempts_of
from pipeline.trees.grow import Tree

METHOD = "r3l"
HELD = "held for a success"
"""Why a reflection that finds nothing to better led to no retry."""

Rewards = dict[tuple[str, int], float]


def retry_rows(
    tree: Tree, rewards: Rewards, variants: list[dict[str, Any]], *, suite: str, params: R3lParams = DEFAULTS
) -> list[dict[str, Any]]:
    """Rows of the rl_samples table for one task. What the policy was shown is out of the loss.

    All judged attempts and distilled retries are a group, `<task>_explore`; the advantage is that of
    `amplified_advantages`. Where a retry is a full success and better than its attempt, the reflection and the guided
    retry are groups of one with advantage 1, `<task>_reflect_<i>` and `<task>_retry_<i>`, i being the attempt's place
    among those reflected on; a reflection that rightly holds an attempt for a success is one too.

    Args:
        variants: of the task; only retries are looked at.

    Source: R^3L (Shi et al., 2026), steps 4 to 6 of its generation. An equally good retry that is shorter counts as
        better in an environment alone.
    """
    retries = sorted((row for row in variants if row["kind"] == "retry"), key=lambda row: row["source_leaf"])
    tried = [row for row in retries if row["first_node"] is not None]
    shared = {row["source_leaf"]: tree.path(row["pivot"])[1:] for row in tried}
    explored = [("base", one.leaf, shared.get(one.leaf, [])) for one in attempts_of(tree, rewards)]
    explored += [("distilled_retry", tree.last_of(row["first_node"]), shared[row["source_leaf"]]) for row in tried]
    explored = [(record, leaf, masked) for record, leaf, masked in explored if (tree.tree, leaf) in rewards]
    earned = np.array([rewards[tree.tree, leaf] for _, leaf, _ in explored])
    advantages = amplified_advantages(earned, np.zeros(len(earned), np.int64), params)
    rows = [
        _row(tree, record, leaf, masked, reward=reward, advantage=advantage, group="explore", suite=suite)
        for (record, leaf, masked), reward, advantage in zip(
            explored, earned.tolist(), advantages.tolist(), strict=True
        )
    ]
    for number, retry in enumerate(retries):
        for record, leaf, masked, group in _led_to_success(tree, rewards, retry, params):
            rows.append(
                _row(tree, record, leaf, masked, reward=1.0, advantage=1.0, group=f"{group}_{number}", suite=suite)
            )
    return rows


def _led_to_success(
    tree: Tree, rewards: Rewards, retry: dict[str, Any], params: R3lParams
) -> Iterator[tuple[str, int, list[int], str]]:
    """What of a retry is imitated: record, last node, nodes out of the loss, and its kind of group."""
    before = rewards.get((tree.tree, retry["source_leaf"]))
    if retry["first_node"] is None:
        if retry["dropped"] == HELD and before is not None and before >= params.max_reward:
            yield "reflection", retry["report_node"], [], "reflect"
        return
    leaf = tree.last_of(retry["first_node"])
    after = rewards.get((tree.tree, leaf))
    if before is None or after is None or after < params.max_reward:
        return
    if after <= before and not _shorter(tree, leaf, retry["source_leaf"]):
        return
    guided = tree[leaf]["copied_from"]
    yield "reflection", retry["report_node"], [], "reflect"
    yield "guided_retry", guided, [node for node in tree.path(guided)[1:] if not tree[node]["sampled"]], "retry"


def _shorter(tree: Tree, leaf: int, source: int) -> bool:
    """Whether an episode took fewer turns than another; answers of one turn are never shorter."""
    retry, attempt = (sum(tree[node]["state_key"] is not None for node in tree.line(one)) for one in (leaf, source))
    return retry < attempt


def _row(
    tree: Tree,
    record: str,
    leaf: int,
    masked: Collection[int],
    *,
    reward: float,
    advantage: float,
    group: str,
    suite: str,
) -> dict[str, Any]:
    context, *steps = tree.path(leaf)
    rows = [tree[node] for node in steps]
    said = [node not in masked and tree[node]["kind"] != "prompt" for node in steps]
    trained = [one for row, one in zip(rows, said, strict=True) for _ in row["token_ids"]]
    return {
        "task": tree.task,
        "row": f"{tree.tree}/{METHOD}/{record}/{leaf}",
        "suite": suite,
        "tree": tree.tree,
        "node": leaf,
        "policy": tree[leaf]["policy"],
        "method": METHOD,
        "prompt_ids": tree[context]["token_ids"],
        "answer_ids": [token for row in rows for token in row["token_ids"]],
        "loss_mask": trained,
        "logprobs": [logprob for row in rows for logprob in row["logprobs"] or [None] * row["token_count"]],
        "advantages": [advantage if one else None for one in trained],
        "reward": reward,
        "record": record,
        "group": f"{tree.task}_{group}",
    }
