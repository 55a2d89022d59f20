"""Judges the leaves of trees: the verdict rows of a stage."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from pipeline.tasks.verifiers import VERSION, Question, verify
from pipeline.trees.grow import Tree
from schemas import Verdicts
from schemas.base import column_types


def is_answer(node: dict) -> bool:
    """Whether a node ends an attempt at the task itself."""
    return node["finish"] is not None and node["kind"] == "step"


def judge(trees: Iterable[Tree], tasks: dict[str, dict], *, known: bool = False) -> pl.DataFrame:
    """Verdicts on the leaves added to each tree; with `known` on those of earlier stages instead.

    Args:
        tasks: rows of the tasks table by task.
    """
    rows = []
    for tree in trees:
        task = tasks[tree.task]
        question = Question(task["answer"], task["info"])
        for node in tree.known.values() if known else tree.nodes:
            if not is_answer(node):
                continue
            verdict = verify(task["verifier"], question, "\n".join(tree.last_turn(node["node"])))
            rows.append(
                {
                    "task": tree.task,
                    "tree": tree.tree,
                    "node": node["node"],
                    "verifier": task["verifier"],
                    "version": VERSION,
                    **verdict._asdict(),
                }
            )
    return pl.DataFrame(rows, schema=column_types(Verdicts), orient="row")


def rewards_by_node(verdicts: pl.DataFrame) -> dict[tuple[str, int], float]:
    """Rewards by tree and node; leaves whose verifier failed are absent."""
    judged = verdicts.filter(pl.col("reward").is_not_null())
    return {(tree, node): reward for tree, node, reward in judged.select("tree", "node", "reward").iter_rows()}


def pass_rate(verdicts: pl.DataFrame) -> float | None:
    """Mean reward of the judged leaves."""
    mean = verdicts["reward"].mean()
    return None if mean is None else float(mean)
