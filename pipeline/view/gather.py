"""What the viewer shows of a tree: its nodes, and all that was said of them. Draws nothing."""

from __future__ import annotations

from typing import Any

import duckdb

from pipeline.errors import BadConfig
from pipeline.lineage.at_hand import AtHand
from pipeline.store.query import run_query, tree_nodes

Json = dict[str, Any]

_NODES = """
    select node, parent, context, depth, turn, agent, kind, origin, sampled, copied_from, token_ids, logprobs, text,
        tool_calls, policy, finish, stage
    from tree_nodes($tree) order by node
"""
_CREDIT = """
    select method, list(node order by node) as nodes, list(value order by node) as value,
        list(advantage order by node) as advantage, list(token_advantages order by node) as token_advantages
    from task_credit(task_of($tree)) where tree = $tree group by method order by method
"""
_LABELS = """
    select labeller, list(node order by node) as nodes,
        list(hard order by node) as hard, list(soft order by node) as soft
    from (
        select * from task_step_labels(task_of($tree)) where tree = $tree
        qualify row_number() over (
            partition by node, labeller order by try_cast(version as bigint) desc, version desc
        ) = 1
    )
    group by labeller order by labeller
"""
_VERDICTS = "select node, reward, parsed_answer from task_judged(task_of($tree)) where tree = $tree order by node"
_VARIANTS = """
    select kind, source_leaf, "pivot", first_node, blamed_step, author, dropped, with_count, with_successes,
        without_count, without_successes, effect
    from task_variants(task_of($tree)) where tree = $tree order by source_leaf, kind
"""
_TASK = "select question, answer, reference_solution from task_tasks(task_of($tree)) limit 1"
_TELLING = """
    select tree from leaves
    where reward is not null and ($suite is null or suite = $suite) and ($round is null or round = $round)
    group by tree order by abs(avg(reward) - 0.5), count(*) desc, tree limit $most
"""
_JUDGED = "select distinct suite, round from leaves where reward is not null order by suite, round"


def telling_trees(
    connection: duckdb.DuckDBPyConnection, *, suite: str | None = None, round: str | None = None, most: int = 24
) -> list[str]:
    """Trees worth a look: those whose judged answers are most divided, larger ones first.

    Raises:
        BadConfig: the store has no judged tree of the kind; names of which there are.
    """
    of = {"suite": suite, "round": round, "most": most}
    found = [row[0] for row in run_query(connection, _TELLING, of).rows]
    if not found:
        asked = "".join(f" of {of} {name!r}" for of, name in (("suite", suite), ("round", round)) if name is not None)
        there = ", ".join(f"{one} (round {at})" for one, at in run_query(connection, _JUDGED).rows)
        remedy = f"there are those of {there}" if there else "sample some with `branchpoint rollouts`"
        raise BadConfig(f"the store has no judged trees{asked}", remedy=remedy)
    return found


def gather_tree(connection: duckdb.DuckDBPyConnection, tree: str, *, at_hand: AtHand) -> Json:
    """One tree as JSON.

    `nodes` has a row a node, with `pieces`, the text of each token, where a tokenizer is at hand. `credit` and
    `labels` have by method and labeller one value a node, null where nothing was said.

    Raises:
        BadConfig: there is no such tree; names the one most like it.
    """
    tree_nodes(connection, tree)
    nodes = _rows(connection, _NODES, tree)
    place = {node["node"]: row for row, node in enumerate(nodes)}
    for node in nodes:
        ids = node.pop("token_ids")
        node["tokens"], node["pieces"] = len(ids), at_hand.pieces(node["policy"], ids) if node["sampled"] else None
        node["reward"] = node["answer"] = None
    for verdict in _rows(connection, _VERDICTS, tree):
        at = nodes[place[verdict["node"]]]
        at["reward"], at["answer"] = verdict["reward"], verdict["parsed_answer"]
    return {
        "tree": tree,
        "task": next(iter(_rows(connection, _TASK, tree)), None),
        "nodes": nodes,
        "credit": {
            row["method"]: _laid(row, ("value", "advantage", "token_advantages"), place)
            for row in _rows(connection, _CREDIT, tree)
        },
        "labels": {row["labeller"]: _laid(row, ("hard", "soft"), place) for row in _rows(connection, _LABELS, tree)},
        "variants": _rows(connection, _VARIANTS, tree),
    }


def _rows(connection: duckdb.DuckDBPyConnection, sql: str, tree: str) -> list[Json]:
    answer = run_query(connection, sql, {"tree": tree})
    return [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]


def _laid(row: Json, columns: tuple[str, ...], place: dict[int, int]) -> Json:
    """Columns of lists over some nodes as lists over all."""
    laid = {}
    for name in columns:
        values = [None] * len(place)
        for node, value in zip(row["nodes"], row[name], strict=True):
            values[place[node]] = value
        if any(value is not None for value in values):
            laid[name] = values
    return laid
