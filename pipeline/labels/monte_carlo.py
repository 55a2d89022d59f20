"""Math-Shepherd labels: a step is as good as the continuations drawn from it turned out.

Draws nothing and judges nothing: it reads the draws and verdicts there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from pipeline.credit.columns import rows_by_depth
from pipeline.credit.tables import parent_rows, reward_rows
from pipeline.errors import BadConfig
from pipeline.labels.rows import label_rows
from pipeline.statistics import wilson

VERSION = "2"
DRAWN = ("branch", "continuation")
"""Origins of what was drawn from a step to see what comes of it."""


@dataclass(frozen=True, slots=True)
class MonteCarloParams:
    """Parameters of Monte Carlo labels.

    threshold: a step is right whose mean reward is above it. Published: 0, one success is enough.
    undecided: no hard label where the interval has the threshold in it. Needs one above 0: that a step without a
        success has no chance at all is beyond any number of draws.

    Raises:
        BadConfig: there is no such threshold.
    """

    threshold: float = 0.0
    undecided: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise BadConfig(f"monte_carlo threshold {self.threshold}", remedy="give one from 0 to below 1")
        if self.undecided and self.threshold == 0:
            raise BadConfig("monte_carlo undecided with threshold 0", remedy="give a threshold above 0 with it")


DEFAULTS = MonteCarloParams()


def monte_carlo(nodes: pl.DataFrame, verdicts: pl.DataFrame, params: MonteCarloParams = DEFAULTS) -> pl.DataFrame:
    """Label the steps of plain rollouts, and the question, by the fresh continuations drawn from them.

    A continuation of a step is a judged leaf whose branch, or continuation beside an intervention, leaves the rollout
    there, or after what was shown then; plain rollouts are continuations of the question. The final step of a rollout
    has its own verdict as its one sample. With r the rewards of the samples: `soft = mean(r)`, `hard = soft >
    threshold`, `successes = count(r > 0)`, and the interval is Wilson's for `sum(r)` of `k`. What follows an
    intervention tells nothing of the step before it.

    Args:
        nodes: columns `task`, `tree`, `node`, `parent`, `depth`, `kind`, `origin`, `token_ids`, every node's
            parent among them.
        verdicts: columns `tree`, `node`, `reward`, at most one row a node. Null: no verdict.
        params: what is right.

    Returns:
        Rows of the step_labels table for the steps that have a sample; the others have no row. `tokens` counts
        all that was decoded below the step for its sake, continuations without a verdict included; null at a
        final step and at the question, whose samples were not drawn for the label.

    Raises:
        ValueError: a parent is missing.

    Source: Math-Shepherd (Wang et al., 2024), soft and hard estimation. Deviations: a threshold, and steps undecided.
    """
    count = len(nodes)
    reward = reward_rows(nodes, verdicts)
    judged, kind = ~np.isnan(reward), nodes["kind"]
    parent = parent_rows(nodes)
    drawn = nodes["origin"].is_in(DRAWN).to_numpy()
    sampled = ((nodes["origin"] == "sample") & (kind == "step")).to_numpy()
    labelled = sampled | (parent < 0)
    shown = ((nodes["origin"] == "sample") & (kind == "prompt")).to_numpy() & (parent >= 0)
    left = _departures(parent, nodes["depth"].to_numpy(), drawn=drawn, labelled=labelled, shown=shown)
    for_label = drawn & (left >= 0)
    rollout = sampled & judged
    left[rollout] = _roots(parent, nodes["depth"].to_numpy())[rollout]

    samples = (for_label | rollout) & judged
    k = np.bincount(left[samples], minlength=count)
    total = np.bincount(left[samples], weights=reward[samples], minlength=count)
    successes = np.bincount(left[samples], weights=reward[samples] > 0, minlength=count).astype(np.int64)
    lengths = nodes["token_ids"].list.len().to_numpy()
    tokens = np.bincount(left[for_label], weights=lengths[for_label], minlength=count).astype(np.int64)

    k[rollout], total[rollout], successes[rollout] = 1, reward[rollout], reward[rollout] > 0
    low, high = wilson(total, k)
    soft = np.divide(total, k, out=np.zeros(count), where=k > 0)
    straddles = params.undecided & (low <= params.threshold) & (params.threshold < high)
    own = rollout | ((parent < 0) & (tokens == 0))
    return label_rows(
        nodes.select("task", "tree", "node").with_columns(
            hard=pl.when(pl.Series(~straddles)).then(pl.Series(soft > params.threshold)),
            soft=pl.Series(soft),
            k=pl.Series(k),
            successes=pl.Series(successes),
            low=pl.Series(low),
            high=pl.Series(high),
            tokens=pl.when(pl.Series(~own)).then(pl.Series(tokens)),
        ),
        labeller="monte_carlo",
        version=VERSION,
    ).filter(pl.Series(labelled & (k > 0)))


def first_error(hard: Sequence[bool | None]) -> int:
    """Index of the first step whose hard label is false; -1 if there is none.

    Args:
        hard: labels of the steps of one solution, in order; they need not be monotone. None: undecided, no error.
    """
    return next((index for index, label in enumerate(hard) if label is not None and not label), -1)


def _departures(
    parent: np.ndarray, depth: np.ndarray, *, drawn: np.ndarray, labelled: np.ndarray, shown: np.ndarray
) -> np.ndarray:
    """`[N]` int: for a node of a draw, the labelled row at which the draw left; -1 for others, and where it left
    from what is not labelled. What was shown after a step stands for it."""
    left = np.full(len(parent), -1)
    for rows in rows_by_depth(depth):
        here = rows[drawn[rows]]
        above = np.where(shown[parent[here]], parent[parent[here]], parent[here])
        left[here] = np.where(drawn[above], left[above], np.where(labelled[above], above, -1))
    return left


def _roots(parent: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """`[N]` int: the row of each node's root."""
    root = np.arange(len(parent))
    for rows in rows_by_depth(depth)[1:]:
        root[rows] = root[parent[rows]]
    return root
