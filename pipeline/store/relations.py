"""Checks across tables, for an audit of a whole store: what a row names is there, and is what the row says.

Each reads one shard of one suite and round at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from pipeline.store.checks import Finding, files_with
from pipeline.store.layout import EVERY_ROUND, Place
from pipeline.store.paths import COLUMNS, path_token_ids
from pipeline.store.store import Store

NAMED: dict[str, tuple[str, ...]] = {
    "verdicts": ("node",),
    "scores": ("node",),
    "credit": ("node",),
    "step_labels": ("node",),
    "variants": ("source_leaf", "pivot", "first_node", "report_node"),
    "pairs": ("chosen_node", "rejected_node"),
    "token_rewards": ("node",),
    "patches": ("node",),
    "prm_steps": ("node",),
    "rl_samples": ("node",),
    "sft": ("node",),
    "unpaired": ("node",),
    "sessions": ("node",),
}
"""Columns by which a table names nodes of its row's tree."""


def nodes_named(store: Store, table: str, shard: list[Place]) -> Finding:
    """Every node that a row names is in the tree it names."""
    rows = store.read(table, shard, columns=["task", "tree", *NAMED[table]])
    nodes = _nodes(store, shard, ["tree", "node"])
    for column in NAMED[table]:
        lost = rows.filter(pl.col(column).is_not_null()).join(
            nodes, left_on=["tree", column], right_on=["tree", "node"], how="anti"
        )
        if lost.height:
            first = lost.row(0, named=True)
            return _fault(
                store, table, shard, f"{lost.height} rows name a {column} that is not there", first, first[column]
            )
    return Finding(True, f"{rows.height} rows")


def tasks_known(store: Store, table: str, shard: list[Place]) -> Finding:
    """Every task is one of the suite; what is trained on comes of the train split alone."""
    place = shard[0]
    tasks = store.read("tasks", store.places("tasks", suite=place.suite, round=EVERY_ROUND), columns=["task", "split"])
    found = store.read(table, shard, columns=["task"]).unique().join(tasks, on="task", how="left")
    wrong = found.filter(pl.col("split").is_null() | ((pl.col("split") != "train") & (table != "evals"))).sort("task")
    if wrong.height:
        task, split = wrong.row(0)
        where = files_with(store, table, shard, {"task": task})
        return Finding(False, f"{where}: {wrong.height} tasks are not of the train split, as {task}, {split}")
    return Finding(True, f"{found.height} tasks")


def trees_of_tasks(store: Store, table: str, shard: list[Place]) -> Finding:
    """A tree is called by its task and what follows the last `@`; queries find a tree's files by that."""
    nodes = store.read(table, shard, columns=["task", "tree", "node"])
    wrong = nodes.filter(pl.col("tree").str.replace("@[^@]*$", "") != pl.col("task"))
    if wrong.height:
        first = wrong.row(0, named=True)
        return _fault(
            store, table, shard, f"{wrong.height} nodes are in trees not called by their task", first, first["node"]
        )
    return Finding(True, f"{nodes.height} nodes")


def requests_booked(store: Store, table: str, shard: list[Place]) -> Finding:
    """Every request that wrote a node is in the table of requests."""
    nodes = store.read(table, shard, columns=["task", "tree", "node", "request"]).drop_nulls("request")
    lost = nodes.join(_beside(store, "requests", shard, ["request"]), on="request", how="anti")
    if lost.height:
        first = lost.row(0, named=True)
        return _fault(
            store, table, shard, f"{lost.height} nodes name a request that is not booked", first, first["node"]
        )
    return Finding(True, f"{nodes.height} nodes")


BY_TOKEN = {"scores": "token_values", "credit": "token_advantages"}
"""The column of a table that has an entry a token."""


def lists_fit(store: Store, table: str, shard: list[Place]) -> Finding:
    """A list with an entry a token is as long as its node's tokens."""
    column = BY_TOKEN[table]
    rows = store.read(table, shard, columns=["task", "tree", "node", column])
    rows = rows.drop_nulls(column).with_columns(length=pl.col(column).list.len())
    counted = rows.join(_nodes(store, shard, ["tree", "node", "token_count"]), on=["tree", "node"])
    wrong = counted.filter(pl.col("length") != pl.col("token_count"))
    if wrong.height:
        first = wrong.row(0, named=True)
        return _fault(store, table, shard, f"{wrong.height} lists are not as long as the tokens", first, first["node"])
    return Finding(True, f"{rows.height} lists")


def pair_tokens(store: Store, table: str, shard: list[Place]) -> Finding:
    """Prompt and answer are, token for token, those of the leaves."""
    rows = store.read(table, shard)
    for side in ("chosen", "rejected"):
        ids = pl.concat_list("prompt_ids", f"{side}_ids")
        wrong = _wrong_tokens(store, shard, rows.select("task", "tree", node=f"{side}_node", ids=ids))
        if wrong is not None:
            return _fault(store, table, shard, f"the {side} tokens are not those of the leaf", wrong, wrong["node"])
    return Finding(True, f"{rows.height} rows")


def patch_tokens(store: Store, table: str, shard: list[Place]) -> Finding:
    """Prompt, prefix and intervention are, token for token, those of the nodes."""
    rows = store.read(table, shard)
    wrong = _wrong_tokens(store, shard, rows.select("task", "tree", "node", ids="input_ids"), prefix=True)
    if wrong is not None:
        return _fault(store, table, shard, "the tokens are not those of the node", wrong, wrong["node"])
    return Finding(True, f"{rows.height} rows")


def _wrong_tokens(store: Store, shard: list[Place], rows: pl.DataFrame, *, prefix: bool = False) -> dict | None:
    """The first row whose ids are not its node's context; with `prefix`, the context may go on after them."""
    nodes = _nodes(store, shard, [*COLUMNS])
    numbered = nodes.with_row_index("at").select("tree", "node", "at")
    found = rows.join(numbered, on=["tree", "node"], how="inner", maintain_order="left")
    if found.is_empty():
        return None
    paths = pl.from_arrow(path_token_ids(nodes, found["at"].cast(pl.Int64).to_numpy()))
    found = found.with_columns(path=paths.cast(pl.List(pl.Int32)))
    if prefix:
        found = found.with_columns(path=pl.col("path").list.head(pl.col("ids").list.len()))
    wrong = found.filter(pl.col("path") != pl.col("ids"))
    return wrong.row(0, named=True) if wrong.height else None


def _nodes(store: Store, shard: list[Place], columns: list[str]) -> pl.DataFrame:
    return _beside(store, "nodes", shard, columns).sort("tree", "node")


def _beside(store: Store, table: str, shard: list[Place], columns: list[str]) -> pl.DataFrame:
    """What another table has in the same shard, of every stage."""
    place = shard[0]
    places = [
        other for other in store.places(table, suite=place.suite, round=place.round) if other.shard == place.shard
    ]
    return store.read(table, places, columns=columns)


def _fault(store: Store, table: str, shard: list[Place], what: str, row: dict, node: int) -> Finding:
    return Finding(False, f"{files_with(store, table, shard, row)}: {what}, as node {node} of {row['tree']}")


Relation = Callable[[Store, str, list[Place]], Finding]

RELATIONS: dict[str, dict[str, Relation]] = {
    "nodes": {"tasks_known": tasks_known, "trees_of_tasks": trees_of_tasks, "requests_booked": requests_booked},
    "verdicts": {"nodes_named": nodes_named},
    "variants": {"nodes_named": nodes_named},
    "scores": {"nodes_named": nodes_named, "lists_fit": lists_fit},
    "credit": {"nodes_named": nodes_named, "lists_fit": lists_fit},
    "step_labels": {"nodes_named": nodes_named},
    "pairs": {"tasks_known": tasks_known, "nodes_named": nodes_named, "pair_tokens": pair_tokens},
    "token_rewards": {"tasks_known": tasks_known, "nodes_named": nodes_named},
    "patches": {"tasks_known": tasks_known, "nodes_named": nodes_named, "patch_tokens": patch_tokens},
    "prm_steps": {"tasks_known": tasks_known, "nodes_named": nodes_named},
    "rl_samples": {"tasks_known": tasks_known, "nodes_named": nodes_named},
    "sft": {"tasks_known": tasks_known, "nodes_named": nodes_named},
    "unpaired": {"tasks_known": tasks_known, "nodes_named": nodes_named},
    "rl_prompts": {"tasks_known": tasks_known},
    "sessions": {"tasks_known": tasks_known, "nodes_named": nodes_named},
}
"""What must hold between tables, by the table whose rows are looked at."""
