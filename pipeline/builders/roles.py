"""MALT rows out of stored trees of roles: one node an output, values from the last role's verdicts upward."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pipeline.builders.malt import ROLES, good_rows, sibling_pairs
from pipeline.credit.columns import Trees
from pipeline.credit.malt import DEFAULTS, MaltParams, node_labels
from pipeline.credit.spo_tree import node_values
from pipeline.trees.grow import Tree

ORIGINS = ("generate", "verify", "refine")
"""Origins of what the roles of `pipeline.builders.malt` say, in their order."""

Rewards = dict[tuple[str, int], float]


class Outputs(NamedTuple):
    """The outputs of the roles of one tree; row 0 is the task.

    trees: a node an output, parents before children; only the last role's have rewards.
    ends:  last node of each in the stored tree.
    """

    trees: Trees
    ends: list[int]


def role_outputs(tree: Tree, rewards: Rewards) -> Outputs:
    """The tree of roles in a stored tree; of the task alone where there is none."""
    ends, parents, depths, graded = [0], [-1], [0], [np.nan]
    row_of = {0: 0}
    for node, row in tree.known.items():
        if row["origin"] not in ORIGINS or row["finish"] is None:
            continue
        above = row_of.get(tree[tree.path(node)[0]]["parent"])
        if above is None:
            continue
        row_of[node] = len(ends)
        ends.append(node)
        parents.append(above)
        depths.append(depths[above] + 1)
        graded.append(rewards.get((tree.tree, node), np.nan) if row["origin"] == ORIGINS[-1] else np.nan)
    count = len(ends)
    trees = Trees(
        parent=np.array(parents, np.int32),
        depth=np.array(depths, np.int32),
        tree=np.zeros(count, np.int32),
        reward=np.array(graded, np.float64),
        tokens=None,
        token_offsets=np.zeros(count + 1, np.int64),
    )
    return Outputs(trees, ends)


def role_pairs(tree: Tree, rewards: Rewards, params: MaltParams = DEFAULTS) -> list[tuple[str, int, int, float]]:
    """Role, last nodes of the good output and of the bad one, difference of their values; see `sibling_pairs`."""
    outputs = role_outputs(tree, rewards)
    values = node_values(outputs.trees)
    pairs = sibling_pairs(outputs.trees, node_labels(outputs.trees, values, params))
    return [
        (
            ROLES[outputs.trees.depth[good] - 1],
            outputs.ends[good],
            outputs.ends[bad],
            float(values[good] - values[bad]),
        )
        for good, bad in pairs.tolist()
    ]


def role_sft(tree: Tree, rewards: Rewards, *, suite: str, params: MaltParams = DEFAULTS) -> list[dict[str, Any]]:
    """A row of the sft table for every good output; only the role's own tokens are trained."""
    outputs = role_outputs(tree, rewards)
    labels = node_labels(outputs.trees, node_values(outputs.trees), params)
    rows = []
    for row in good_rows(outputs.trees, labels).tolist():
        node = outputs.ends[row]
        context, *said = tree.path(node)
        prompt, answer = tree[context]["token_ids"], [token for step in said for token in tree[step]["token_ids"]]
        rows.append(
            {
                "task": tree.task,
                "row": f"{tree.tree}/{node}",
                "suite": suite,
                "tree": tree.tree,
                "node": node,
                "input_ids": [*prompt, *answer],
                "weights": [0.0] * len(prompt) + [1.0] * len(answer),
                "prompt": tree[context]["text"],
                "answer": "\n".join(tree.texts(node)),
                "role": ROLES[outputs.trees.depth[row] - 1],
            }
        )
    return rows
