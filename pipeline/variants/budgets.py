"""What attempts cut at budgets say to BRPO: where stretches of thinking end, and of which budget a summary is.

An attempt that ended within a budget thought until its last step, which is its answer.
"""

from __future__ import annotations

import polars as pl

from schemas import Scores
from schemas.base import column_types

NAME = "budget"
"""Of the scores."""
WITHIN = "ended within the budget"
"""Why an attempt is not cut."""
_NODE = ["tree", "node"]


def budget_scores(nodes: pl.DataFrame, variants: pl.DataFrame) -> pl.DataFrame:
    """The place of its budget, from 0, on the end of each stretch of thinking and on each summary.

    Several budgets that end after the same step are one stretch, of the first of them.

    Args:
        nodes: `task`, `tree`, `node`, `parent`, `depth`, `origin`, `finish`: attempts and what was drawn below them.
        variants: rows of the stage that cut them.

    Returns:
        Rows of the table of scores.
    """
    cases = variants.with_columns(place=pl.col("budget").rank("dense").cast(pl.Float64) - 1)
    cut = cases.select("tree", "place", node="pivot")
    ended = cases.filter(pl.col("dropped") == WITHIN).select("tree", "place", node="source_leaf")
    last = ended.join(nodes, on=_NODE).select("tree", "place", node="parent")
    thought = pl.concat([cut, last]).group_by(_NODE).agg(pl.col("place").min())
    begun = cases.filter(pl.col("first_node").is_not_null()).select("tree", "place", node="first_node").sort("node")
    leaves = nodes.filter((pl.col("origin") == "summary") & pl.col("finish").is_not_null()).select(_NODE).sort("node")
    drawn = leaves.join_asof(begun, on="node", by="tree", check_sortedness=False)
    places = pl.concat([thought, drawn.select(*_NODE, "place")]).join(nodes.filter(pl.col("depth") > 0), on=_NODE)
    schema = column_types(Scores)
    rows = places.select("task", *_NODE, name=pl.lit(NAME), value="place", token_values=None, text=None)
    return rows.cast(schema).sort("task", *_NODE)
