"""What a judge is shown of a tree: its task, and its plain attempts as text. Knows no prompt and no engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import polars as pl

from pipeline.credit.columns import ZERO

COLUMNS = (
    *("task", "tree", "node", "parent", "episode", "turn"),
    *("kind", "origin", "text", "tool_calls", "finish"),
)
"""Of nodes, that a judge's cases are made of."""


class Attempt(NamedTuple):
    """A way from below the root to the end of a plain rollout.

    nodes: numbers of its nodes; texts: of each. said: False for what was rendered between the policy's steps, such as
        an observation or what another speaker said.
    reward: its verdict; None: it has none.
    calls: tool calls of each node, as `nodes.tool_calls`; empty: nothing is known of them.
    before, after: what the others of a dialogue said before its first step and after its last.
    """

    nodes: tuple[int, ...]
    texts: tuple[str, ...]
    said: tuple[bool, ...]
    reward: float | None
    calls: tuple[str | None, ...] = ()
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    @property
    def right(self) -> bool | None:
        """Whether its verdict is the full score."""
        return None if self.reward is None else self.reward >= 1 - ZERO

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
    told: what the policy was told of its part in a scenario, its goal among it, as the root has it; else the question.
    """

    task: dict[str, Any]
    tree: str
    root: int
    attempts: tuple[Attempt, ...]
    told: str = ""

    @property
    def question(self) -> str:
        return self.task["question"]


def cases_of(
    nodes: pl.DataFrame, verdicts: pl.DataFrame, tasks: dict[str, dict[str, Any]], *, per_task: int = 0
) -> Iterator[Case]:
    """The trees of some nodes, by task.

    Args:
        nodes: the columns of `COLUMNS`.
        verdicts: `tree, node, reward`, at most one row a node.
        tasks: rows of the table of tasks, by task.
        per_task: attempts of each tree, the first ones; 0: all.
    """
    rewards = {(tree, node): reward for tree, node, reward in verdicts.select("tree", "node", "reward").iter_rows()}
    heard = _dialogues(nodes)
    for (tree,), rows in nodes.select(COLUMNS).sort("task", "tree", "node").group_by("tree", maintain_order=True):
        by_node = {row["node"]: row for row in rows.iter_rows(named=True)}
        leaves = [
            node
            for node, row in by_node.items()
            if row["origin"] == "sample" and row["kind"] == "step" and row["finish"] is not None
        ]
        others = [(turn, text) for turn, own, text in heard.get(rows["episode"][0], ()) if own != tree]
        attempts = [_attempt(by_node, leaf, rewards.get((tree, leaf)), others) for leaf in leaves[: per_task or None]]
        if attempts:
            root = next(node for node, row in by_node.items() if row["parent"] is None)
            yield Case(tasks[rows["task"][0]], str(tree), root, tuple(attempts), by_node[root]["text"])


def _dialogues(nodes: pl.DataFrame) -> dict[str, list[tuple[int, str, str]]]:
    """What was said in episodes of several trees, in order: turn, tree and text by episode."""
    said = nodes.filter((pl.col("kind") == "step") & pl.col("turn").is_not_null() & pl.col("episode").is_not_null())
    several = said.filter(pl.col("tree").n_unique().over("episode") > 1).sort("episode", "turn")
    found: dict[str, list[tuple[int, str, str]]] = {}
    for episode, *one in several.select("episode", "turn", "tree", "text").iter_rows():
        found.setdefault(episode, []).append(tuple(one))
    return found


def _attempt(
    by_node: dict[int, dict[str, Any]], leaf: int, reward: float | None, others: Sequence[tuple[int, str]]
) -> Attempt:
    way = [leaf]
    while (above := by_node[way[-1]]["parent"]) is not None:
        way.append(above)
    rows = [by_node[node] for node in way[-2::-1]]
    turns = [row["turn"] for row in rows if row["kind"] != "prompt"]
    return Attempt(
        nodes=tuple(row["node"] for row in rows),
        texts=tuple(row["text"] for row in rows),
        said=tuple(row["kind"] != "prompt" for row in rows),
        reward=reward,
        calls=tuple(row["tool_calls"] for row in rows),
        before=tuple(text for turn, text in others if turn < turns[0]),
        after=tuple(text for turn, text in others if turn > turns[-1]),
    )
