"""Math-Shepherd labels: a step is as good as the continuations drawn from it turned out.

Draws nothing and judges nothing: it reads the branches and verdicts there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from pipeline.credit.columns import rows_by_depth
from pipeline.credit.tables import parent_rows, reward_rows
from pipeline.statistics import wilson
from schemas import StepLabels

VERSION = "1"


def monte_carlo(nodes: pl.DataFrame, verdicts: pl.DataFrame) -> pl.DataFrame:
    """Label the steps of plain rollouts by the fresh continuations drawn from them.

    A continuation of a step is a judged leaf whose branch leaves the rollout there. The final step of a rollout
    has its own verdict as its one sample. With r the rewards of the samples:
    `soft = mean(r)`, `hard = soft > 0`, `successes = count(r > 0)`, and the interval is Wilson's for `sum(r)` of `k`.

    Args:
        nodes: columns `task`, `tree`, `node`, `parent`, `depth`, `kind`, `origin`, `token_ids`, every node's
            parent among them.
        verdicts: columns `tree`, `node`, `reward`, at most one row a node. Null: no verdict.

    Returns:
        Rows of the step_labels table for the steps that have a sample; the others have no row. `tokens` counts
        all that was decoded below the step for its sake, continuations without a verdict included; null at a
        final step.

    Raises:
        ValueError: a parent is missing.

    Source: Math-Shepherd (Wang et al., 2024), soft and hard estimation.
    """
    count = len(nodes)
    reward = reward_rows(nodes, verdicts)
    judged = ~np.isnan(reward)
    branch = (nodes["origin"] == "branch").to_numpy()
    step = ((nodes["origin"] == "sample") & (nodes["kind"] == "step")).to_numpy()
    left = _departures(nodes, branch)

    drawn = branch & judged
    k = np.bincount(left[drawn], minlength=count)
    total = np.bincount(left[drawn], weights=reward[drawn], minlength=count)
    successes = np.bincount(left[drawn], weights=reward[drawn] > 0, minlength=count).astype(np.int64)
    lengths = nodes["token_ids"].list.len().to_numpy()
    tokens = np.bincount(left[branch], weights=lengths[branch], minlength=count).astype(np.int64)

    final = step & judged
    k[final], total[final], successes[final] = 1, reward[final], reward[final] > 0
    low, high = wilson(total, k)
    soft = np.divide(total, k, out=np.zeros(count), where=k > 0)
    columns = {"hard": soft > 0, "soft": soft, "k": k, "successes": successes, "low": low, "high": high}
    return (
        nodes.select("task", "tree", "node")
        .with_columns(
            labeller=pl.lit("monte_carlo"),
            version=pl.lit(VERSION),
            rationale=pl.lit(None, dtype=pl.String),
            tool_exit=None,
            created=None,
            tokens=pl.when(pl.Series(~final)).then(pl.Series(tokens)),
            **{name: pl.Series(values) for name, values in columns.items()},
        )
        .filter(pl.Series(step & (k > 0)))
        .select(StepLabels.column_names())
        .cast({name: column.dtype for name, column in StepLabels.columns().items()})
    )


def first_error(hard: Sequence[bool | None]) -> int:
    """Index of the first step whose hard label is false; -1 if there is none.

    Args:
        hard: labels of the steps of one solution, in order; they need not be monotone. None: undecided, no error.
    """
    return next((index for index, label in enumerate(hard) if label is not None and not label), -1)


def _departures(nodes: pl.DataFrame, branch: np.ndarray) -> np.ndarray:
    """`[N]` int: for a node of a branch, the row at which the branch left the rollout; -1 for other nodes."""
    parent, left = parent_rows(nodes), np.full(len(nodes), -1)
    for rows in rows_by_depth(nodes["depth"].to_numpy()):
        here = rows[branch[rows]]
        above = parent[here]
        left[here] = np.where(branch[above], left[above], above)
    return left
