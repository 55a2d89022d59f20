"""Methods and labellers run once more, on trees that were changed. Writes nothing.

Trees are rows of nodes with the verdict (`reward`), labels (`hard:<labeller>`, `soft:<labeller>`) and scores
(`score:<input>`) beside each, so that whoever drops or copies rows need not look after other tables.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import polars as pl

from pipeline.credit import scored_by
from pipeline.credit.columns import Method
from pipeline.credit.inputs import INPUTS
from pipeline.credit.lacking import has
from pipeline.credit.tables import seen_by, trees_from_nodes
from pipeline.labels import LABELLERS

LABELS = ("hard", "soft")
SCORE = "score:"
"""How a column of scores begins; the name of the input follows."""


class Said(NamedTuple):
    """What a method says of `N` nodes: `[N]` float64 each, NaN where nothing."""

    advantage: np.ndarray
    value: np.ndarray


def credit_anew(nodes: pl.DataFrame, method: Method, params: Any, *, labeller: str) -> Said | None:
    """Run a method on trees as they stand here.

    Args:
        nodes: the columns that the method's arrays are made from, `reward`, and the labels and scores it needs;
            parents first, the rows of a tree together.

    Returns:
        None: of what the method needs these trees have nothing, though others of the round may.
    """
    rows = nodes.with_row_index("row").filter(seen_by(method))
    labels = None
    if f"soft:{labeller}" in nodes.columns:
        labels = rows.select("tree", "node", **{name: pl.col(f"{name}:{labeller}") for name in LABELS})
    scores = {
        name: rows.select("tree", "node", pl.col(SCORE + name).alias(INPUTS[name].column))
        for name in scored_by(method)
        if SCORE + name in rows.columns
    }
    verdicts = rows.select("tree", "node", "reward").drop_nulls("reward")
    tables = {"nodes": rows, "step_labels": labels}
    if not all(has(scores.get(name, tables.get(INPUTS[name].table)), name) for name in method.needs):
        return None
    trees = trees_from_nodes(rows, verdicts, needs=method.needs, labels=labels, judged=method.judged, scores=scores)
    said = method.function(trees, params)
    found = []
    for values in (said.advantage, said.value):
        wide = np.full(len(nodes), np.nan)
        if values is not None:
            wide[rows["row"].to_numpy()] = values
        found.append(wide)
    return Said(*found)


def label_anew(nodes: pl.DataFrame, labeller: str) -> pl.DataFrame:
    """The same trees with the labels that a labeller gives them as they stand here."""
    names = [f"{name}:{labeller}" for name in LABELS]
    verdicts = nodes.select("tree", "node", "reward").drop_nulls("reward")
    labels = LABELLERS[labeller](nodes, verdicts).select("tree", "node", **dict(zip(names, LABELS, strict=True)))
    return nodes.drop(names, strict=False).join(labels, on=["tree", "node"], how="left", maintain_order="left")
