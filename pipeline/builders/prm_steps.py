"""Rows of `prm_steps` out of trees: the attempts of some nodes, with a label a step. Token ids come from the nodes.

Knows no labeller: labels are joined by node, or are the verdict of the attempt itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from pipeline.credit.ragged import rows_of
from pipeline.credit.tables import TREE_COLUMNS, reward_rows, trees_from_nodes
from schemas import PrmSteps, Verdicts
from schemas.base import column_types

OUTCOME = "outcome_broadcast"
"""In place of a labeller: each step of an attempt has the verdict of its leaf."""
COLUMNS = (*TREE_COLUMNS, "context", "finish", "text", "token_ids")
"""Of nodes, what rows are made from."""
IN_PATH = ("prompt", "sample", "branch")
"""Origins of the nodes on the way to an attempt under the task's own prompt."""


def step_rows(
    nodes: pl.DataFrame,
    said: pl.DataFrame,
    *,
    suite: str,
    labeller: str,
    origins: Sequence[str] = ("sample",),
    least: int = 1,
) -> pl.DataFrame:
    """A row for each attempt with a label on enough of its steps.

    Args:
        nodes: COLUMNS of whole trees, sorted by tree and node.
        said: of a labeller, its newest step labels: `tree, node, hard, soft`, at most one row a node. Of OUTCOME,
            verdicts: `tree, node, reward`; an attempt without one has no label.
        suite: of the tasks.
        labeller: whose labels they are, or OUTCOME.
        origins: of the leaves that end the attempts, of IN_PATH.
        least: steps that must have a label.

    Returns:
        Rows of the table `prm_steps`, in the order of leaves within a tree. A step without tokens has no place to be
        scored at and is left out. Null in a list: undecided. Of an episode the steps are its turns; what was shown
        before one stands before its text, and its tokens between theirs. An attempt in another context than the task's
        own prompt has no row.

    Raises:
        BadTable: the nodes are no trees.

    Source: Math-Shepherd (Wang et al., 2024); OUTCOME is its outcome baseline laid on every step.
    """
    own_prompt = pl.col("parent").is_null() | (pl.col("origin") != "prompt")
    nodes = nodes.filter(pl.col("origin").is_in(IN_PATH) & own_prompt)
    trees = trees_from_nodes(nodes, pl.DataFrame(schema=column_types(Verdicts)), needs=())
    ends = nodes["origin"].is_in(origins) & nodes["finish"].is_not_null() & (nodes["kind"] == "step")
    leaves = np.flatnonzero((ends & (nodes["context"] == 0)).to_numpy())
    paths = trees.paths(leaves)
    attempt = rows_of(paths.offsets)
    steps = nodes[paths.nodes].with_columns(attempt=pl.Series(attempt))
    if labeller == OUTCOME:
        reward = pl.Series("soft", reward_rows(nodes, said)[leaves][attempt]).fill_nan(None)
        steps = steps.with_columns(reward.cast(pl.Float32), (reward > 0).alias("hard"))
    else:
        steps = steps.join(
            said.select("tree", "node", "hard", "soft"),
            on=["tree", "node"],
            how="left",
            maintain_order="left",
            validate="m:1",
        )
    steps = steps.filter(pl.col("token_count") > 0)
    turn, shown = pl.col("kind") == "step", (pl.col("kind") == "prompt").shift(fill_value=False)
    text = pl.when(shown).then(pl.format("{}\n{}", pl.col("text").shift(), "text")).otherwise("text")
    root = np.flatnonzero(trees.parent < 0)[trees.tree[leaves]]
    known = pl.any_horizontal(pl.col("hard", "soft").is_not_null())
    rows = steps.group_by("attempt", maintain_order=True).agg(
        known=(known & turn).sum(),
        steps=text.filter(turn),
        step_nodes=pl.col("node").filter(turn),
        hard=pl.col("hard").filter(turn),
        soft=pl.col("soft").filter(turn),
        ids=pl.col("token_ids").explode(empty_as_null=False),
        ends=(pl.col("token_count").cum_sum() - 1).filter(turn),
    )
    of = pl.Series(rows["attempt"], dtype=pl.Int64)
    prompts, last = nodes[root[of]], nodes[leaves[of]]
    return (
        rows.with_columns(
            last["task"],
            last["tree"],
            last["node"],
            prompts["text"].alias("prompt"),
            prompts["token_ids"].alias("before"),
            suite=pl.lit(suite),
            labeller=pl.lit(labeller),
        )
        .filter(pl.col("known") >= least)
        .with_columns(
            row=pl.format("{}/{}/{}", "tree", "labeller", "node"),
            input_ids=pl.concat_list("before", "ids"),
            # A prompt's length is added to every end of its row.
            step_ends=pl.col("ends") + pl.col("before").list.len().cast(pl.Int32),
        )
        .select(PrmSteps.column_names())
        .cast(column_types(PrmSteps))
    )
