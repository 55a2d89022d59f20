"""GroundedPRM's labels: tool verdicts on steps and what came of the tree below them, made one.

Calls no tool of its own; the labeller `tool` does.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from pipeline.credit import METHODS
from pipeline.credit.groundedprm import DEFAULTS, GroundedprmParams, groundedprm_credit
from pipeline.credit.tables import seen_by, trees_from_nodes
from pipeline.labels.rows import label_rows
from pipeline.labels.tool import tool

VERSION = "1"


def groundedprm(nodes: pl.DataFrame, verdicts: pl.DataFrame, params: GroundedprmParams = DEFAULTS) -> pl.DataFrame:
    """Label the steps of plain rollouts whose path agrees with the tool all along.

    The way to a judged leaf is a rollout, worth the tool's verdicts on its steps and its outcome together; its worth
    goes up to the ancestors and decays. A path is dropped whole where a value and a verdict contradict each other, and
    a wrong one is cut where it turns right again. `hard` is the sign that is left, `soft` the node's mean worth brought
    from [-1, 1] to [0, 1].

    Args:
        nodes: columns `task`, `tree`, `node`, `parent`, `depth`, `kind`, `origin`, `text`, `token_ids`.
        verdicts: columns `tree`, `node`, `reward`.
        params: worth of verdicts and outcomes, decay, and whether to be strict.

    Returns:
        Rows of the step_labels table for the steps that a kept path has; the others have no row.

    Source: GroundedPRM (2025). Deviations: as `groundedprm_credit`, and the tool's verdict is no model's.
    """
    method = METHODS["groundedprm"]
    seen = nodes.filter(seen_by(method)).sort("tree", "node")
    checked = tool(seen, verdicts)
    if checked.is_empty():
        return checked
    found = groundedprm_credit(trees_from_nodes(seen, verdicts, needs=method.needs, labels=checked), params)
    step = ((seen["origin"] == "sample") & (seen["kind"] == "step")).to_numpy() & np.asarray(found.mask)
    rows = seen.select("task", "tree", "node").with_columns(
        hard=pl.Series(found.advantage > 0),
        soft=pl.Series(np.clip((found.value + 1.0) / 2.0, 0.0, 1.0), nan_to_null=True),
    )
    told = rows.filter(pl.Series(step)).join(
        checked.select("tree", "node", "tool_exit"), on=["tree", "node"], how="left"
    )
    return label_rows(told, labeller="groundedprm", version=VERSION)
