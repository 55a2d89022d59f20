"""Checks of what lies in the store, by table: cheap facts read again, each with a name and a reason.

The writer refuses rows that break their table; these find what no single row shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from pipeline.errors import BadTable
from pipeline.store.layout import Place
from pipeline.store.store import Store
from pipeline.store.write import content_digest
from schemas import TABLES
from schemas.base import arrow_schema

_AT_ONCE = 2000


class Finding(NamedTuple):
    """passed, and what was looked at or what is wrong."""

    passed: bool
    detail: str


def keys_unique(store: Store, table: str, places: Sequence[Place]) -> Finding:
    """No key twice, over all the stages and shards at hand."""
    key = TABLES[table].primary_key()
    rows = store.read(table, list(places), columns=list(key))
    twice = rows.height - rows.n_unique()
    return Finding(twice == 0, f"{rows.height} rows, {twice} keys more than once")


def digests_match(store: Store, table: str, places: Sequence[Place]) -> Finding:
    """The rows of every file still have the digest the file states."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for place in places:
        path = place.path(store.root, table)
        try:
            data = pq.read_table(path, partitioning=None).cast(arrow_schema(TABLES[table]))
            data.validate(full=True)  # text that is no UTF-8 would break whoever hashes it
            same = content_digest(data) == store.digest(table, place)
        except (OSError, ValueError, LookupError, pa.ArrowException, BadTable) as error:
            said = " ".join(str(error).split())[:200]
            return Finding(False, f"{path.name} of stage {place.stage} cannot be read: {said}")
        if not same:
            return Finding(False, f"{path.name} of stage {place.stage} is not what was written")
    return Finding(True, f"{len(places)} files")


def parents_present(store: Store, table: str, places: Sequence[Place]) -> Finding:
    """Every parent, context and copied node is in the same tree, at an earlier number."""
    nodes = store.read(table, list(places), columns=["task", "tree", "node", "parent", "context", "copied_from"])
    for column in ("parent", "context", "copied_from"):
        named = nodes.filter(pl.col(column).is_not_null())
        lost = named.join(nodes, left_on=["tree", column], right_on=["tree", "node"], how="anti")
        if lost.height:
            return Finding(False, f"{lost.height} nodes name a {column} that is not there, as in {lost['tree'][0]}")
    return Finding(True, f"{nodes.height} nodes")


def token_exact(store: Store, table: str, places: Sequence[Place]) -> Finding:
    """Every sampled leaf's path is, token for token, what its request sent and got, log-probabilities included."""
    nodes = store.read(table, list(places)).filter(~pl.col("tree").is_null())
    leaves = 0
    with store.ledger() as ledger:
        for tasks in nodes["task"].unique(maintain_order=True).to_frame().iter_slices(_AT_ONCE):
            some = nodes.filter(pl.col("task").is_in(tasks["task"].implode()))
            rows = {(row["tree"], row["node"]): row for row in some.iter_rows(named=True)}
            ends = [row for row in rows.values() if row["sampled"] and row["finish"] is not None]
            entries = ledger.get(list({row["request"] for row in ends}))
            for leaf in ends:
                leaves += 1
                entry = entries.get(leaf["request"])
                path = [leaf]
                while path[-1]["node"] != leaf["context"] and (leaf["tree"], path[-1]["parent"]) in rows:
                    path.append(rows[leaf["tree"], path[-1]["parent"]])
                path.reverse()
                ids = np.concatenate([np.asarray(row["token_ids"], dtype=np.int32) for row in path])
                answer = [row for row in path if row["request"] == leaf["request"]]
                logprobs = np.concatenate([np.asarray(row["logprobs"], dtype=np.float32) for row in answer])
                if (
                    entry is None
                    or not np.array_equal(ids, np.concatenate([entry.prompt, entry.completion.token_ids]))
                    or not np.array_equal(logprobs, entry.completion.logprobs)
                ):
                    return Finding(
                        False, f"leaf {leaf['node']} of {leaf['tree']} differs from request {leaf['request']}"
                    )
    return Finding(True, f"{leaves} leaves equal their requests, ids and log-probabilities")


def finite(store: Store, table: str, places: Sequence[Place]) -> Finding:
    """Every number is finite; what is unknown is null."""
    rows = store.read(table, list(places))
    for name, dtype in rows.schema.items():
        column = rows[name].explode() if isinstance(dtype, pl.List) else rows[name]
        if column.dtype.is_float() and not column.drop_nulls().is_finite().all():
            return Finding(False, f"{name} has values that are not finite")
    return Finding(True, f"{rows.height} rows")


def splits_apart(store: Store, table: str, places: Sequence[Place]) -> Finding:
    """No question of a suite is in both splits."""
    rows = store.read(table, list(places), columns=["task", "suite", "split", "question"])
    asked = rows.group_by("suite", "question", maintain_order=True).agg(
        pl.col("task").last(), pl.col("split").n_unique()
    )
    both = asked.filter(pl.col("split") > 1)
    if both.height:
        return Finding(False, f"{both.height} questions are in both splits, as that of {both['task'][0]}")
    return Finding(True, f"{asked.height} questions")


def any_rows(store: Store, table: str, places: Sequence[Place]) -> Finding:
    """There is something to go on with."""
    rows = sum(store.rows(table, place) for place in places)
    return Finding(rows > 0, f"{rows} rows")


Check = Callable[[Store, str, Sequence[Place]], Finding]

CHECKS: dict[str, dict[str, Check]] = {
    "tasks": {"any_rows": any_rows, "keys_unique": keys_unique, "splits_apart": splits_apart},
    "nodes": {
        "any_rows": any_rows,
        "keys_unique": keys_unique,
        "parents_present": parents_present,
        "token_exact": token_exact,
    },
    "requests": {"digests_match": digests_match},
    "verdicts": {"keys_unique": keys_unique, "digests_match": digests_match},
    "variants": {"keys_unique": keys_unique},
    "credit": {"any_rows": any_rows, "keys_unique": keys_unique, "finite": finite},
    "step_labels": {"any_rows": any_rows, "keys_unique": keys_unique, "finite": finite},
    "pairs": {"keys_unique": keys_unique},
    "patches": {"keys_unique": keys_unique},
    "evals": {"keys_unique": keys_unique},
}
