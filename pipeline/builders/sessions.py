"""Paths of trees as sessions that people read: a leaf of each kind a tree, its messages as lines of a session file."""

from __future__ import annotations

from typing import Any

import msgspec
import polars as pl

from pipeline.exchange.paths import Path, StoredTree
from pipeline.exchange.sessions import header, messages
from schemas import Sessions
from schemas.base import column_types

NODE_COLUMNS = ("task", "tree", "node", "parent", "kind", "origin", "text", "tool_calls", "policy")
_encode = msgspec.json.Encoder().encode


def session_rows(
    tasks: pl.DataFrame, nodes: pl.DataFrame, verdicts: pl.DataFrame, sources: pl.DataFrame, *, per_reward: int = 1
) -> pl.DataFrame:
    """Rows of the table `sessions`.

    Args:
        tasks: of the suite.
        nodes: NODE_COLUMNS of whole trees.
        verdicts: `tree, node, reward`, at most one a node.
        sources: `tree, node, name, text`: of scores the records under `source`, which say whose a message is.
        per_reward: of each tree, the first so many leaves of every reward, the unjudged among them. 0: all leaves.
    """
    said: dict[str, dict[int, dict[str, list[dict[str, Any]]]]] = {}
    for row in sources.iter_rows(named=True):
        said.setdefault(row["tree"], {}).setdefault(row["node"], {"scores": []})["scores"].append(row)
    asked = {row["task"]: row for row in tasks.iter_rows(named=True)}
    chosen = _leaves(nodes, verdicts, per_reward).partition_by("tree", as_dict=True)
    found = []
    for tree, rows in nodes.partition_by("tree", as_dict=True).items():
        known = {row["node"]: row for row in rows.iter_rows(named=True)}
        stored = StoredTree(asked[rows["task"][0]], *tree, "", known, said.get(*tree, {}))
        found += [_row(Path(stored, node), reward) for node, reward in chosen[tree].select("node", "reward").rows()]
    return pl.DataFrame(found, schema=column_types(Sessions), orient="row").sort("task", "row")


def _leaves(nodes: pl.DataFrame, verdicts: pl.DataFrame, per_reward: int) -> pl.DataFrame:
    """`task, tree, node, reward` of the leaves that are chosen."""
    inner = nodes.select("tree", node="parent").drop_nulls()
    leaves = nodes.select("task", "tree", "node").join(inner, on=["tree", "node"], how="anti", maintain_order="left")
    judged = leaves.join(verdicts, on=["tree", "node"], how="left", maintain_order="left").sort("tree", "node")
    kept = judged.filter(pl.int_range(pl.len()).over("tree", "reward") < per_reward) if per_reward else judged
    return kept.select("task", "tree", "node", "reward")


def _row(path: Path, reward: float | None) -> dict[str, Any]:
    task, tree = path.tree.task, path.tree.tree
    spoken = list(messages(path))
    lines = [{**header(path), "name": path.question}, *({"type": "message", "message": one} for one in spoken)]
    return {
        "task": task["task"],
        "row": f"{tree}/{path.end}",
        "suite": task["suite"],
        "tree": tree,
        "node": path.end,
        "reward": reward,
        "message_count": len(spoken),
        "call_count": sum(len(one.get("toolCalls", ())) for one in spoken),
        "prompt": path.question,
        "trace": b"".join(_encode(line) + b"\n" for line in lines).decode(),
    }
