"""What a judge is shown of a tree: its task, and its plain attempts as text. Knows no prompt and no engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import polars as pl

from pipeline.credit.columns import ZERO


class Attempt(NamedTuple):
    """A way from below the root to the end of a plain rollout.

    nodes: numbers of its nodes; texts: of each. said: False for what was rendered between the policy's steps, such as
        an observation or what another speaker said.
    right: its verdict is the full score; None: it has none.
    """

    nodes: tuple[int, ...]
    texts: tuple[str, ...]
    said: tuple[bool, ...]
    right: bool | None

    @property
    def steps(self) -> list[int]:
        """Places of what the policy said."""
        return [place for place, own in enumerate(self.said) if own]

    @property
    def own_texts(self) -> list[str]:
        """What the policy said, a text a step."""
        return [text for text, own in zip(self.texts, self.said, strict=True) if own]


class Case(NamedTuple):
    """A tree before a judge.

    task: row of the table of tasks. root: number of its prompt node.
    """

    task: dict[str, Any]
    tree: str
    root: int
    attempts: tuple[Attempt, ...]

    @property
    def question(self) -> str:
        return self.task["question"]


def cases_of(
    nodes: pl.DataFrame, verdicts: pl.DataFrame, tasks: dict[str, dict[str, Any]], *, per_task: int = 0
) -> Iterator[Case]:
    """The trees of some nodes, by task.

    Args:
        nodes: `task, tree, node, parent, kind, origin, text, finish`.
        verdicts: `tree, node, reward`, at most one row a node.
        tasks: rows of the table of tasks, by task.
        per_task: attempts of each tree, the first ones; 0: all.
    """
    rewards = {(tree, node): reward for tree, node, reward in verdicts.select("tree", "node", "reward").iter_rows()}
    columns = ("task", "tree", "node", "parent", "kind", "origin", "text", "finish")
    for (tree,), rows in nodes.select(columns).sort("task", "tree", "node").group_by("tree", maintain_order=True):
        by_node = {row["node"]: row for row in rows.iter_rows(named=True)}
        leaves = [
            node
            for node, row in by_node.items()
            if row["origin"] == "sample" and row["kind"] == "step" and row["finish"] is not None
        ]
        attempts = [_attempt(by_node, leaf, rewards.get((tree, leaf))) for leaf in leaves[: per_task or None]]
        if attempts:
            root = next(node for node, row in by_node.items() if row["parent"] is None)
            yield Case(tasks[rows["task"][0]], str(tree), root, tuple(attempts))


def _attempt(by_node: dict[int, dict[str, Any]], leaf: int, reward: float | None) -> Attempt:
    way = [leaf]
    while (above := by_node[way[-1]]["parent"]) is not None:
        way.append(above)
    rows = [by_node[node] for node in way[-2::-1]]
    return Attempt(
        nodes=tuple(row["node"] for row in rows),
        texts=tuple(row["text"] for row in rows),
        said=tuple(row["kind"] != "prompt" for row in rows),
        right=None if reward is None else reward >= 1 - ZERO,
    )
