"""Rows to train a generative process reward model on: the question, steps, and what a judge said of the last one.

A rationale is kept where its verdict is the label of another labeller. Knows no judge but by its rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from pipeline.credit.ragged import split
from pipeline.credit.tables import TREE_COLUMNS, trees_from_nodes
from schemas import Sft, Verdicts
from schemas.base import column_types

COLUMNS = (*TREE_COLUMNS, "context", "text")
ROLE = "judge"


def agreed(said: pl.DataFrame, labels: pl.DataFrame, *, balance: bool) -> pl.DataFrame:
    """The steps whose verdict is that of the other labeller.

    Args:
        said: newest labels of a judge: `tree, node, hard, rationale`.
        labels: newest labels of another labeller: `tree, node, hard`.
        balance: keep as many right as wrong steps; which of the more frequent kind are kept is drawn, always the same.

    Returns:
        `tree, node, rationale`, sorted by tree and node.

    Source: ThinkPRM (Khalifa et al., 2025), which keeps the verifications that the gold labels bear out.
    """
    both = said.filter(pl.col("rationale").str.strip_chars() != "").join(
        labels.select("tree", "node", truth="hard"), on=["tree", "node"], how="inner", validate="1:1"
    )
    kept = both.filter(pl.col("hard") == pl.col("truth")).sort("tree", "node")
    if balance:
        draw = pl.Series("draw", np.random.default_rng(0).random(len(kept)))
        most = min(int(kept["hard"].sum()), int((~kept["hard"]).sum()))
        kept = kept.with_columns(draw).filter(pl.col("draw").rank("ordinal").over("hard") <= most)
    return kept.select("tree", "node", "rationale")


def rationale_rows(
    nodes: pl.DataFrame,
    kept: pl.DataFrame,
    *,
    suite: str,
    prompt: Callable[[str, list[str]], np.ndarray],
    answer: Callable[[str], np.ndarray],
) -> pl.DataFrame:
    """Rows of the table `sft`, one a rationale; its tokens are trained, those of the prompt are not.

    Args:
        nodes: COLUMNS of whole trees, sorted by tree and node.
        kept: as `agreed` gives them. Steps that are not under the task's own prompt have no row.
        suite: of the tasks.
        prompt: token ids of a judge's prompt, from a question and the steps up to the one that is judged.
        answer: token ids of a rationale, end token included.
    """
    own = nodes.filter((pl.col("context") == 0) & ((pl.col("kind") == "step") | pl.col("parent").is_null()))
    trees = trees_from_nodes(own, pl.DataFrame(schema=column_types(Verdicts)), needs=())
    wanted = own.with_row_index("place").join(kept, on=["tree", "node"], how="inner", maintain_order="left")
    places = wanted["place"].to_numpy().astype(np.int64)
    questions = own["text"].gather(np.flatnonzero(trees.parent < 0)[trees.tree[places]])
    paths, texts, rows = trees.paths(places), own["text"], []
    for step, question, path in zip(
        wanted.iter_rows(named=True), questions, split(paths.nodes, paths.offsets), strict=True
    ):
        before, after = prompt(question, texts.gather(path).to_list()), answer(step["rationale"])
        rows.append(
            {
                "task": step["task"],
                "row": f"{step['tree']}/{ROLE}/{step['node']}",
                "suite": suite,
                "tree": step["tree"],
                "node": step["node"],
                "input_ids": [*before.tolist(), *after.tolist()],
                "weights": [0.0] * len(before) + [1.0] * len(after),
                "prompt": question,
                "answer": step["rationale"],
                "role": ROLE,
            }
        )
    return pl.DataFrame(rows, schema=column_types(Sft), orient="row")
