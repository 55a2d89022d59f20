"""Checks of what lies in the store, by table: cheap facts read again, each with a name and a reason.

The writer refuses rows that break their table; these find what no single row shows. Each reads a shard at a time, and
names file and row of the first fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.errors import BadTable
from pipeline.store.layout import Place, by_shard
from pipeline.store.paths import path_logprobs, path_token_ids
from pipeline.store.store import Store
from pipeline.store.write import validated
from schemas import TABLES
from schemas.base import row_order

_LEDGER_KEYS = 2000
_REQUEST_TOKENS = ("request", "token_ids", "logprobs")


class Finding(NamedTuple):
    """passed, and what was looked at or what is wrong."""

    passed: bool
    detail: str


def files_with(store: Store, table: str, places: Sequence[Place], row: dict[str, Any]) -> str:
    """The files that hold a row, by those of its values that are columns of the table; all there are if none does."""
    known = {name: value for name, value in row.items() if name in TABLES[table].column_names() and value is not None}
    holds = pl.all_horizontal(pl.col(name) == value for name, value in known.items() if not isinstance(value, list))
    columns = [name for name, value in known.items() if not isinstance(value, list)]
    held = [place for place in places if store.read(table, [place], columns=columns).filter(holds).height]
    return " and ".join(place.name(table) for place in held or places)


def faults(store: Store, table: str, places: Sequence[Place]) -> Iterator[str]:
    """What is wrong with each file that is not as it was written."""
    for place in places:
        stamp = store.files.stat(place.name(table))
        if stamp is None:
            yield f"{place.name(table)} is not there"
            continue
        try:
            store.entries.verify(stamp)
        except BadTable as error:
            yield str(error)


def unsealed(store: Store, table: str, places: Sequence[Place]) -> str:
    """How many of some sound files are too old to tell whether their bytes are as they were; empty where none is."""
    count = sum(not store.entry(table, place).sealed for place in places)
    return f", {count} of a version without seals" if count else ""


def as_written(store: Store, table: str, places: Sequence[Place]) -> Finding:
    """Every byte of every file is as it was written, and the file says what its table is."""
    fault = next(faults(store, table, places), None)
    return Finding(fault is None, fault or f"{len(places)} files{unsealed(store, table, places)}")


def rows_valid(store: Store, table: str, places: Sequence[Place]) -> Finding:
    """Every row keeps the rules of its table and stands in its place; numbers are finite, what is unknown is null."""
    rows = 0
    for place in places:
        stored = pl.concat([store.read(table, []), *map(pl.from_arrow, store.batches(table, [place]))])
        rows += stored.height
        try:
            expected = validated(table, stored)
        except BadTable as error:
            return Finding(False, f"{place.name(table)}: {error.culprit}")
        if not stored.equals(expected):
            return Finding(False, f"{place.name(table)}: its rows are not in the order of tasks and keys")
    return Finding(True, f"{rows} rows")


def keys_unique(store: Store, table: str, places: Sequence[Place]) -> Finding:
    """No key twice, over all the stages and shards at hand."""
    key, looked = list(TABLES[table].primary_key()), 0
    seen: dict[tuple, str] = {}
    for some in by_shard(places):
        rows = store.read(table, some, columns=row_order(TABLES[table]))
        looked += rows.height
        twice = rows.filter(pl.struct(key).is_duplicated())
        if twice.height:
            where = files_with(store, table, some, twice.row(0, named=True))
            return Finding(False, f"{where}: {twice.height} rows share keys, as {twice.row(0)}")
        for first in rows["task"].unique().to_list() if _has_task(table) else ():
            other = seen.setdefault((some[0].suite, some[0].round, first), some[0].shard)
            if other != some[0].shard:
                return Finding(False, f"task {first} is in shard {some[0].shard} and in {other}")
    return Finding(True, f"{looked} rows")


def parents_present(store: Store, table: str, places: Sequence[Place]) -> Finding:
    """Nodes are numbered without a gap; every parent, context and copied node is in the same tree, before its node.

    A node is one deeper than its parent, and in the context of its parent, unless it is a prompt that begins its own.
    """
    looked = 0
    for some in by_shard(places):
        columns = ["task", "tree", "node", "parent", "context", "depth", "kind", "copied_from"]
        nodes = store.read(table, some, columns=columns)
        looked += nodes.height
        for column in ("parent", "context", "copied_from"):
            named = nodes.filter(pl.col(column).is_not_null())
            lost = named.join(nodes, left_on=["tree", column], right_on=["tree", "node"], how="anti")
            late = named.filter(pl.col(column) > pl.col("node"))
            for wrong, what in ((lost, "that is not there"), (late, "that comes after it")):
                if wrong.height:
                    first = wrong.row(0, named=True)
                    return Finding(
                        False, _nodes_said(store, some, f"{wrong.height} nodes name a {column} {what}", first)
                    )
        above = nodes.select("tree", pl.col("node").alias("parent"), above="depth", around="context")
        known = nodes.join(above, on=["tree", "parent"], how="left", maintain_order="left")
        begins = (pl.col("kind") == "prompt") & (pl.col("context") == pl.col("node"))
        deep = known.filter(pl.col("depth") != pl.col("above").fill_null(-1) + 1)
        apart = known.filter(~begins & pl.col("context").ne_missing(pl.col("around")))
        for wrong, what in ((deep, "are not one deeper than their parent"), (apart, "leave the context they are in")):
            if wrong.height:
                first = wrong.row(0, named=True)
                return Finding(False, _nodes_said(store, some, f"{wrong.height} nodes {what}", first))
        gaps = nodes.group_by("tree").agg(pl.len(), pl.col("node").max()).filter(pl.col("node") + 1 != pl.col("len"))
        if gaps.height:
            tree = gaps["tree"].min()
            where = files_with(store, table, some, {"tree": tree})
            return Finding(False, f"{where}: the nodes of {tree} are not numbered one by one")
    return Finding(True, f"{looked} nodes")


def copies_exact(store: Store, table: str, places: Sequence[Place]) -> Finding:
    """What stands in another context too has the tokens and log-probabilities of the node it was copied from."""
    looked = 0
    for some in by_shard(places):
        nodes = store.read(table, some, columns=["task", "tree", "node", "copied_from", "token_ids", "logprobs"])
        originals = nodes.select("tree", pl.col("node").alias("copied_from"), ids="token_ids", known="logprobs")
        copies = nodes.drop_nulls("copied_from").join(
            originals, on=["tree", "copied_from"], how="inner", maintain_order="left"
        )
        looked += copies.height
        wrong = copies.filter(
            pl.col("token_ids").ne_missing(pl.col("ids")) | pl.col("logprobs").ne_missing(pl.col("known"))
        )
        if wrong.height:
            said = f"{wrong.height} copies are not as their originals"
            return Finding(False, _nodes_said(store, some, said, wrong.row(0, named=True)))
    return Finding(True, f"{looked} copies")


def token_exact(store: Store, table: str, places: Sequence[Place]) -> Finding:
    """Every sampled leaf's path is, token for token, what its request sent and got, log-probabilities included."""
    leaves = 0
    with store.ledger() as ledger:
        for some in by_shard(places):
            columns = ["task", "tree", "node", "parent", "context", "depth", "token_ids", "logprobs", "sampled"]
            nodes = store.read(table, some, columns=[*columns, "request", "finish"])
            ends = (nodes["sampled"] & nodes["finish"].is_not_null()).arg_true()
            leaves += len(ends)
            found = nodes[ends].select("tree", "node", "request")
            try:
                found = found.with_columns(
                    ids=pl.from_arrow(path_token_ids(nodes, ends.to_numpy())),
                    logprobs=pl.from_arrow(path_logprobs(nodes, ends.to_numpy())),
                )
            except (ValueError, BadTable) as error:
                said = error.culprit if isinstance(error, BadTable) else error
                return Finding(False, f"{some[0].shard}: {said}")
            keys = found["request"].unique().to_list()
            entries = {
                key: entry
                for at in range(0, len(keys), _LEDGER_KEYS)
                for key, entry in ledger.get(keys[at : at + _LEDGER_KEYS]).items()
            }
            recorded = pl.DataFrame(
                {
                    "request": list(entries),
                    "sent": [len(entry.prompt) for entry in entries.values()],
                    "recorded_ids": _lists([[entry.prompt, entry.completion.token_ids] for entry in entries.values()]),
                    "recorded_logprobs": _lists([[entry.completion.logprobs] for entry in entries.values()]),
                },
                schema_overrides={"request": pl.String, "sent": pl.Int64},
            )
            compared = found.join(recorded, on="request", how="left", maintain_order="left").with_columns(
                logprobs=pl.col("logprobs").list.slice(pl.col("sent"))
            )
            same = (pl.col("ids") == pl.col("recorded_ids")) & (pl.col("logprobs") == pl.col("recorded_logprobs"))
            wrong = compared.filter(~same.fill_null(False))
            if wrong.height:
                first = wrong.row(0, named=True)
                where = files_with(store, table, some, {name: first[name] for name in ("tree", "node")})
                said = f"leaf {first['node']} of {first['tree']} differs from request {first['request']}"
                return Finding(False, f"{where}: {said}")
    return Finding(True, f"{leaves} leaves equal their requests, ids and log-probabilities")


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


def _nodes_said(store: Store, places: Sequence[Place], what: str, first: dict[str, Any]) -> str:
    """What is wrong, with the file and number of the first of the nodes."""
    where = files_with(store, "nodes", places, {name: first[name] for name in ("tree", "node")})
    return f"{where}: {what}, as node {first['node']} of {first['tree']}"


def _lists(parts: list[list]) -> pl.Series:
    """A list for each entry, made of its arrays end to end."""
    arrays = [np.concatenate(some) for some in parts]
    offsets = np.concatenate(([0], np.cumsum([len(array) for array in arrays], dtype=np.int64)))
    values = np.concatenate(arrays) if arrays else np.empty(0, np.int32)
    return pl.Series(pa.LargeListArray.from_arrays(offsets, pa.array(values)))


def _has_task(table: str) -> bool:
    return "task" in TABLES[table].column_names()


Check = Callable[[Store, str, Sequence[Place]], Finding]

CHECKS: dict[str, dict[str, Check]] = {
    "tasks": {"any_rows": any_rows, "keys_unique": keys_unique, "splits_apart": splits_apart},
    "nodes": {
        "any_rows": any_rows,
        "keys_unique": keys_unique,
        "parents_present": parents_present,
        "copies_exact": copies_exact,
        "token_exact": token_exact,
    },
    "requests": {"as_written": as_written},
    "verdicts": {"keys_unique": keys_unique, "as_written": as_written},
    "variants": {"keys_unique": keys_unique},
    "scores": {"any_rows": any_rows, "keys_unique": keys_unique, "rows_valid": rows_valid},
    "credit": {"any_rows": any_rows, "keys_unique": keys_unique, "rows_valid": rows_valid},
    "step_labels": {"any_rows": any_rows, "keys_unique": keys_unique, "rows_valid": rows_valid},
    "pairs": {"keys_unique": keys_unique},
    "token_rewards": {"keys_unique": keys_unique},
    "patches": {"keys_unique": keys_unique},
    "prm_steps": {"keys_unique": keys_unique},
    "rl_samples": {"keys_unique": keys_unique},
    "sft": {"keys_unique": keys_unique},
    "unpaired": {"keys_unique": keys_unique},
    "rl_prompts": {"keys_unique": keys_unique},
    "sessions": {"keys_unique": keys_unique},
    "hygiene": {"keys_unique": keys_unique},
    "evals": {"keys_unique": keys_unique},
}
"""Blocking checks of what a stage just made."""
