"""Stage: how well credit and labels agree with the exact oracle of arithmetic steps.

Scored are the steps of plain samples up to the first wrong one: does the method rank the wrong step below
the right ones. The oracle is used here and nowhere upstream.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from pipeline.report import Report
from pipeline.stages.earlier import GENERATING, refuse_replaced, rollout_shards
from pipeline.stages.work import Shards, Work, inputs
from pipeline.statistics import auc
from pipeline.tasks.arithmetic import read_sum, steps_right
from pipeline.trees.grow import read_trees
from schemas import Evals
from schemas.base import column_types

STAGE = "agreement"
VERSION = "1"
_RESAMPLES = 200
_SCORES = {"credit": "advantage", "step_labels": "soft"}


def write_agreement(work: Work) -> Report:
    """Area under the ROC curve of every credit method and labeller of the round, with intervals over tasks.

    Raises:
        BadTable: there are no rollouts, or a table was made before they changed.
    """
    rollout_shards(work)
    for table in _SCORES:
        refuse_replaced(work, table)
    places = {table: work.places(table) for table in ("nodes", *_SCORES)}
    made_from = inputs(
        VERSION,
        **{table: " ".join(work.store.digest(table, place) for place in found) for table, found in places.items()},
    )
    shards = Shards(work, STAGE, ("evals",))
    for name, _, parts in shards.stale({"train": None}, lambda shard: made_from):
        oracle = oracle_steps(work)
        rows = []
        for table, column in _SCORES.items():
            for stage in sorted({place.stage for place in places[table]}):
                scores = work.store.read(
                    table, [place for place in places[table] if place.stage == stage], columns=["tree", "node", column]
                )
                both = oracle.join(scores, on=["tree", "node"]).filter(pl.col(column).is_not_null())
                rows.append(
                    {"policy": f"{table}/{stage}", "suite": work.suite.name, "split": "train", "metric": "oracle_auc"}
                    | _interval(both, column)
                )
        shards.write(name, parts, evals=pl.DataFrame(rows, schema=column_types(Evals), orient="row"))
    evals = shards.read("evals")
    return shards.finish(**dict(evals.select("policy", "value").iter_rows()))


def oracle_steps(work: Work) -> pl.DataFrame:
    """`task, tree, node, right` of every sampled step that no wrong step precedes; sums only."""
    questions = dict(work.store.tasks(work.suite.name).select("task", "question").iter_rows())
    places = work.places("nodes", stage=GENERATING[0])
    rows = []
    for tree in read_trees(work.store.read("nodes", places)).values():
        problem = read_sum(questions[tree.task])
        if problem is None:
            continue
        for node, row in tree.known.items():
            if row["finish"] is None:
                continue
            path = tree.path(node)[1:]
            for step, right in zip(path, steps_right(problem, [tree[n]["text"] for n in path]), strict=True):
                rows.append((tree.task, tree.tree, step, right))
                if not right:
                    break
    return pl.DataFrame(
        rows, schema={"task": pl.String, "tree": pl.String, "node": pl.Int32, "right": pl.Boolean}, orient="row"
    )


def _interval(both: pl.DataFrame, column: str) -> dict[str, float | int | None]:
    """The AUC and the 95 % interval of its bootstrap over tasks."""
    score, right = both[column].to_numpy(), both["right"].to_numpy()
    value = auc(score, right)
    low = high = None
    if value is not None:
        task = both["task"].rank("dense").to_numpy().astype(np.int64) - 1
        order = np.argsort(task, kind="stable")
        bounds = np.searchsorted(task[order], np.arange(task.max() + 2))
        members = [order[bounds[t] : bounds[t + 1]] for t in range(task.max() + 1)]
        draw = np.random.default_rng(0)
        values = []
        for _ in range(_RESAMPLES):
            rows = np.concatenate([members[t] for t in draw.integers(len(members), size=len(members))])
            if (one := auc(score[rows], right[rows])) is not None:
                values.append(one)
        low, high = (float(q) for q in np.quantile(values, (0.025, 0.975)))
    return {"value": value, "low": low, "high": high, "count": both.height}
