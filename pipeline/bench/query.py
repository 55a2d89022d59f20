"""Bench `query`: how long the store takes to answer what people and trainers ask of it, on a forest of many nodes.

Asked in SQL through the store's own database, as a user would, all rows fetched. A query of one task is put to tasks
that no query has touched before, on a connection that has answered others. What is answered is compared with what was
drawn. Times are of the wall; `cpu_ms` beside them is what the process worked meanwhile, in all its threads.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

import duckdb
import numpy as np
import polars as pl

from pipeline.bench.draw import ROUND, Counts, draw_slice, task_name
from pipeline.bench.forest import StoredForest, slice_of, slices_of
from pipeline.bench.metric import Metric, Params, ratio
from pipeline.bench.opening import measure_opening
from pipeline.bench.shape import Shape
from pipeline.bench.steps import measure_stream
from pipeline.bench.store import answers
from pipeline.bench.vary import grow
from pipeline.store.paths import COLUMNS, path_token_ids
from pipeline.store.query import open_database, run_query
from pipeline.store.store import Store

TASKS_ASKED = 15
"""Of each query about one of them."""
WHOLE_ASKED = 3
"""How often each query about all of them is put."""
TOP = 10


class Asked(NamedTuple):
    """A query: its SQL and parameters, and what its answer must be; `right` looks at the rows."""

    sql: str
    parameters: tuple[object, ...]
    right: Callable[[list[tuple]], bool]


class _Tree(NamedTuple):
    """A tree as drawn. nodes: how many; answer, on_path: its deepest answer and the nodes down to that; below: of the
    subtree of node 1."""

    nodes: int
    answer: int
    on_path: int
    below: int


def measure(forest: StoredForest) -> Iterator[Metric]:
    """Milliseconds by query; leaves to token ids; opening a store of many trees; credit of many rows."""
    shape, (store, counts) = forest.large.shape, forest.large.drawn
    files = len(store.places("nodes"))
    params = {**shape.params(), "nodes": counts.nodes, "tokens": counts.tokens, "node_files": files}
    yield from _queries(store, shape, counts, params)
    yield _leaves(store, shape, min(forest.sizes.leaves, counts.leaves), params)
    yield from measure_opening(forest)
    yield from measure_stream(forest)


def _queries(store: Store, shape: Shape, counts: Counts, params: Params) -> Iterator[Metric]:
    random = np.random.default_rng([shape.seed, TASKS_ASKED])
    tasks = iter(random.permutation(shape.tasks).tolist())
    start = time.perf_counter()
    with open_database(store) as connection:
        first = _task(shape, next(tasks))
        _ask(connection, first)
        seconds = time.perf_counter() - start
        yield ratio("query.first_ms", seconds, 0.001, unit="ms", params={"query": "task", **params})
        for name, query in (("task", _task), ("path", _path), ("subtree", _subtree)):
            some = list(islice(tasks, TASKS_ASKED)) or [0]
            yield _timed(connection, name, [query(shape, task) for task in some], params)
        yield _timed(connection, "pass_rate_top10", [_pass_rates(shape, counts)] * WHOLE_ASKED, params)
        yield _timed(connection, "all_path_tokens", [_all_paths(counts)] * WHOLE_ASKED, params)


def _timed(connection: duckdb.DuckDBPyConnection, name: str, queries: list[Asked], params: Params) -> Metric:
    wall, cpu = zip(*(_ask(connection, query) for query in queries), strict=True)
    params = {"query": name, "median_of": len(queries), "cpu_ms": round(statistics.median(cpu) * 1000, 1), **params}
    return ratio("query.ms", statistics.median(wall), 0.001, unit="ms", params=params)


def _ask(connection: duckdb.DuckDBPyConnection, asked: Asked) -> tuple[float, float]:
    """Seconds of wall and processor until all rows are there.

    Raises:
        ValueError: they are not what was drawn.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    rows = list(run_query(connection, asked.sql, asked.parameters).rows)
    spent = time.perf_counter() - wall, time.process_time() - cpu
    if not asked.right(rows):
        raise ValueError(f"{asked.sql} of {asked.parameters} does not answer what was drawn; it gave {len(rows)} rows")
    return spent


def _task(shape: Shape, task: int) -> Asked:
    nodes = _tree(shape, task).nodes
    return Asked("select * from task_nodes(?)", (task_name(task),), lambda rows: len(rows) == nodes)


def _path(shape: Shape, task: int) -> Asked:
    tree = _tree(shape, task)
    return Asked("select * from path(?, ?)", (_name(task), tree.answer), lambda rows: len(rows) == tree.on_path)


def _subtree(shape: Shape, task: int) -> Asked:
    tree = _tree(shape, task)
    return Asked("select * from subtree(?, 1)", (_name(task),), lambda rows: len(rows) == tree.below)


def _pass_rates(shape: Shape, counts: Counts) -> Asked:
    """The tasks with the best rates; the number of judged answers is asked as well, so that all must be looked at."""
    sql = f"""
        select task, avg(reward) as rate, sum(count(*)) over () as judged
        from judged group by task order by rate desc, task limit {TOP}
    """
    return Asked(sql, (), lambda rows: len(rows) == min(TOP, shape.tasks) and rows[0][2] == counts.judged)


def _all_paths(counts: Counts) -> Asked:
    """Tokens of every path, by task, so that what is fetched is not what takes the time."""
    sql = "select task, sum(tokens) from paths where kind = 'step' group by task"
    return Asked(sql, (), lambda rows: sum(tokens for _, tokens in rows) == counts.path_tokens)


def _tree(shape: Shape, task: int) -> _Tree:
    """What there is to be found of a task, without drawing what its nodes hold."""
    first, count = slice_of(shape, task)
    trees = grow(shape, np.random.default_rng([shape.seed, first]), count).trees
    rows = np.flatnonzero(trees.tree == task - first)
    ends = rows[trees.answers()[rows]]
    answer = ends[np.argmax(trees.depth[ends])]
    below = np.zeros(len(trees.tree), dtype=bool)
    below[rows[1]] = True
    for row in rows[2:]:
        below[row] = below[trees.parent[row]]
    return _Tree(len(rows), int(trees.node[answer]), int(trees.depth[answer]) + 1, int(below.sum()))


def _name(task: int) -> str:
    """The tree of a task."""
    return f"{task_name(task)}@{ROUND}"


def _leaves(store: Store, shape: Shape, count: int, params: Params) -> Metric:
    """The first answers of the store, from files that are not in the system's cache to token ids.

    Raises:
        ValueError: the ids are not those that were drawn.
    """
    tasks = _tasks_with(shape, count)
    _forget(store)
    start = time.perf_counter()
    with open_database(store) as connection:
        sql = f"select {', '.join(COLUMNS)}, finish, kind from nodes where task <= ? order by task, tree, node"
        nodes = pl.from_arrow(connection.sql(sql, params=[task_name(tasks - 1)]).to_arrow_table())
    ids = path_token_ids(nodes, answers(nodes)[:count])
    seconds = time.perf_counter() - start
    for at, (found, drawn) in enumerate(zip(ids, islice(_walked(shape), count), strict=True)):
        if found.values.to_numpy().tobytes() != drawn.tobytes():
            raise ValueError(f"leaf {at} has other token ids than were drawn")
    params = {**params, "leaf_tasks": tasks, "leaf_tokens": len(ids.values), "identical": count}
    return ratio("query.leaves_per_s", count, seconds, unit="leaves/s", params=params)


def _tasks_with(shape: Shape, leaves: int) -> int:
    """How many tasks, from the first on, have so many answers."""
    found = 0
    for first, count in slices_of(shape):
        trees = grow(shape, np.random.default_rng([shape.seed, first]), count).trees
        upto = found + np.cumsum(np.bincount(trees.tree[trees.answers()], minlength=count))
        if upto[-1] >= leaves:
            return first + int(np.searchsorted(upto, leaves)) + 1
        found = int(upto[-1])
    return shape.tasks


def _forget(store: Store) -> None:
    """Put the nodes out of the system's cache."""
    for at in store.places("nodes"):
        with at.path(store.root, "nodes").open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _walked(shape: Shape) -> Iterator[np.ndarray]:
    """The token ids of every answer as drawn, each by a walk up from it."""
    for first, count in slices_of(shape):
        rows = draw_slice(shape, first, count).rows.values()
        nodes = pl.concat(tables["nodes"] for tables in rows).sort("tree", "node")
        ids = nodes["token_ids"].rechunk().to_arrow()
        above = nodes.select("tree", "node", "parent", "context").rows()
        row_of = {(tree, node): row for row, (tree, node, _, _) in enumerate(above)}
        for leaf in answers(nodes).tolist():
            path, (tree, _, _, context) = [leaf], above[leaf]
            while above[path[-1]][1] != context:
                path.append(row_of[tree, above[path[-1]][2]])
            yield np.concatenate([ids[row].values.to_numpy() for row in reversed(path)])
