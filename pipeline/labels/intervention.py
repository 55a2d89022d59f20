"""Labels from interventions: both steps, the one written anew and the one it replaces, by the continuations of their
arms."""

from __future__ import annotations

import polars as pl

from pipeline.labels.rows import label_rows
from pipeline.statistics import wilson
from pipeline.variants.effect import effect_of
from pipeline.variants.intervene import Continuations

VERSION = "1"
LABELLER = EDIT = "intervention"


def intervention(nodes: pl.DataFrame, verdicts: pl.DataFrame) -> pl.DataFrame:
    """Label the two steps of every intervention by the continuations drawn from each.

    Of a step's judged continuations `k`, `successes` are of reward 1; `soft` is their share, `hard` whether there are
    any, and the interval is Wilson's. A step that ended its attempt has no continuations, and no row. What follows an
    observation follows the turn before it.

    Args:
        nodes: columns `task`, `tree`, `node`, `parent`, `kind`, `origin`, `token_ids`, parents before children.
        verdicts: columns `tree`, `node`, `reward`, at most one row a node. Null: no verdict.

    Returns:
        Rows of the step_labels table. The rationale is the effect, success with the edit less success without, and its
        interval; null where it is not one edit and one original that stand in a place.

    Source: Math-Shepherd (Wang et al., 2024) for one arm; the comparison of two is ours.
    """
    steps = nodes.select("task", "tree", "node", "parent", "origin").join(
        _arms(nodes, verdicts), on=["tree", "node"], how="inner", maintain_order="left"
    )
    effects = [_effect(place) for place in steps.partition_by("tree", "parent", maintain_order=True)]
    said = steps.join(
        pl.DataFrame(effects, schema={"tree": pl.String, "parent": pl.Int32, "rationale": pl.String}, orient="row"),
        on=["tree", "parent"],
        how="left",
        maintain_order="left",
    )
    low, high = wilson(said["successes"].to_numpy(), said["k"].to_numpy())
    return label_rows(
        said.select("task", "tree", "node", "k", "successes", "tokens", "rationale").with_columns(
            hard=pl.col("successes") > 0,
            soft=pl.col("successes") / pl.col("k"),
            low=pl.Series(low, dtype=pl.Float64),
            high=pl.Series(high, dtype=pl.Float64),
        ),
        labeller=LABELLER,
        version=VERSION,
    )


def _arms(nodes: pl.DataFrame, verdicts: pl.DataFrame) -> pl.DataFrame:
    """By tree and node: judged continuations that begin there, the right ones among them, and tokens of all."""
    drawn = nodes.filter(pl.col("origin") == "continuation")
    shown = nodes.filter((pl.col("kind") == "prompt") & pl.col("parent").is_not_null() & (pl.col("origin") == "sample"))
    turns = {(tree, node): parent for tree, node, parent in shown.select("tree", "node", "parent").iter_rows()}
    begun: dict[tuple[str, int], int] = {}
    for tree, node, parent in drawn.select("tree", "node", "parent").iter_rows():
        begun[tree, node] = begun.get((tree, parent), turns.get((tree, parent), parent))
    continued = drawn.select(
        "tree",
        "node",
        start=pl.Series(list(begun.values()), dtype=pl.Int32),
        tokens=pl.col("token_ids").list.len(),
    ).join(verdicts.select("tree", "node", "reward"), on=["tree", "node"], how="left")
    return (
        continued.group_by("tree", "start", maintain_order=True)
        .agg(
            k=pl.col("reward").count(),
            successes=(pl.col("reward") >= 1).sum(),
            tokens=pl.col("tokens").sum(),
        )
        .filter(pl.col("k") > 0)
        .rename({"start": "node"})
    )


def _effect(place: pl.DataFrame) -> tuple[str, int, str | None]:
    """Tree, parent, and what is said of the steps that stand there."""
    tree, parent = place.select("tree", "parent").row(0)
    edit, original = (
        [Continuations(*row) for row in place.filter(one).select("k", "successes").iter_rows()]
        for one in (pl.col("origin") == EDIT, pl.col("origin") != EDIT)
    )
    found = effect_of(edit[0], original[0]) if len(edit) == len(original) == 1 else None
    return tree, parent, found and f"effect {found.effect:+.2f} ({found.low:+.2f} to {found.high:+.2f})"
