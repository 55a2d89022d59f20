"""A small store: two trees of three samples each, judged by several stages. Shared by tests of the database."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from pipeline.store.layout import Place
from pipeline.store.query import ask, open_database
from pipeline.store.store import Store
from pipeline.store.write import META
from schemas import TABLES
from schemas.base import column_types
from schemas.versions import UPGRADES

TASK = {
    "task": "sums/easy/train/000000",
    "suite": "sums",
    "band": "easy",
    "split": "train",
    "question": "1 + 1",
    "answer": "2",
    "reference_solution": None,
    "verifier": "math",
    "info": None,
    "difficulty": 0.0,
}


def frame(table: str, rows: list[dict]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=column_types(TABLES[table]), orient="row")


def node(number: int, parent: int | None, origin: str, *, tree: str = "t", text: str = "", leaf: bool = False) -> dict:
    row = dict.fromkeys(column_types(TABLES["nodes"]))
    return row | {
        "task": tree,
        "tree": tree,
        "episode": tree,
        "node": number,
        "parent": parent,
        "context": 0,
        "depth": 0 if parent is None else 1,
        "turn": 0,
        "agent": "solver",
        "kind": "prompt" if parent is None else "step",
        "origin": origin,
        "sampled": False,
        "token_ids": [number],
        "token_count": 1,
        "text": text or f"step {number}",
        "finish": "stop" if leaf else None,
    }


def verdict(number: int, reward: float | None, *, tree: str = "t", version: str = "1") -> dict:
    row = {"task": tree, "tree": tree, "node": number, "verifier": "math", "version": version, "reward": reward}
    return row | {"parsed_answer": None, "error": None if reward is not None else "TimeoutError"}


def write(store: Store, table: str, rows: list[dict], *, stage: str, shard: str = "train-000", **of: str) -> None:
    """Write a shard, of suite sums and round r0 unless told otherwise."""
    place = Place(of.get("suite", "sums"), of.get("round", "r0"), stage, shard)
    store.write(table, frame(table, rows), place, inputs={})


def forest(store: Store) -> Store:
    """Two trees of three samples each; a branch was grown in the first by a later stage.

    #      0             0
    #   1  3  5       1  2  3
    #  2 6 4
    Rewards of t: 2 right, 4 wrong, 5 judged only in the second go, 6 wrong. Of u: 1 right, 2 and 3 wrong.
    """
    write(store, "tasks", [TASK], stage="tasks", round="all")
    sampled = [
        node(0, None, "prompt"),
        node(1, 0, "sample"),
        node(2, 1, "sample", leaf=True),
        node(3, 0, "sample"),
        node(4, 3, "sample", leaf=True),
        node(5, 0, "sample", leaf=True),
        node(0, None, "prompt", tree="u"),
        *(node(number, 0, "sample", tree="u", leaf=True) for number in (1, 2, 3)),
    ]
    write(store, "nodes", sampled, stage="rollouts")
    write(store, "nodes", [node(6, 1, "branch", leaf=True)], stage="trees")
    judged = [verdict(2, 1.0), verdict(4, 0.0), verdict(5, None)]
    write(store, "verdicts", judged + [verdict(n, float(n == 1), tree="u") for n in (1, 2, 3)], stage="rollouts")
    write(store, "verdicts", [verdict(6, 0.0)], stage="trees")
    write(store, "verdicts", [verdict(5, 1.0)], stage="verdicts")
    return store


def rows(store: Store, sql: str) -> list[tuple]:
    """The rows of all the statements, asked as a user asks."""
    with open_database(store) as connection:
        return [row for answer in ask(connection, sql) for row in answer.rows]


def older(path: Path, table: str) -> None:
    """Make a file one of the table's first version: without what was added since, and without a seal."""
    data = pq.read_table(path, partitioning=None)
    data = data.drop_columns([name for step in UPGRADES[table] for name in step])
    meta = {"table": table, "schema_version": 1, "digest": "of older rows", "inputs": {}}
    pq.write_table(data.replace_schema_metadata({META: json.dumps(meta)}), path)
