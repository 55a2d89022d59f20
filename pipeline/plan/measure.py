"""What a round has spent and made, task by task, out of its tables: those of a pilot, those of the round itself."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from pipeline.lineage.datasets import DATASETS
from pipeline.stages.earlier import JUDGING, ROLLOUTS
from pipeline.store.store import Store

EPISODES = "episodes"
"""Who asks for the rollouts of suites with an environment."""


def spent_by_task(store: Store, suite: str, round: str, *, stages: Sequence[str] | None = None) -> pl.DataFrame:
    """What stages asked for, all of them where none is named.

    Returns:
        A row a task: `task, requests, reused_requests, prompt_tokens, computed_tokens, decoded_tokens,
        request_seconds`. Requests that another stage or round pays are in the first two alone. Null: the engine does
        not tell.
    """
    asked = store.scan("requests", suite=suite, round=round)
    if stages is not None:
        asked = asked.filter(pl.col("stage").is_in(list(stages)))
    reused = pl.col("reused").fill_null(value=False)
    paid, answered = ~reused, ~reused & pl.col("error").is_null()
    columns = {
        "computed_tokens": pl.col("prompt_tokens") - pl.col("cached_tokens"),
        "request_seconds": pl.col("seconds"),
    }
    return (
        asked.group_by("task", maintain_order=True)
        .agg(
            requests=pl.len().cast(pl.Int64),
            reused_requests=reused.sum().cast(pl.Int64),
            prompt_tokens=pl.col("prompt_tokens").filter(paid).cast(pl.Int64).sum(),
            decoded_tokens=pl.col("decoded_tokens").filter(paid).cast(pl.Int64).sum(),
            **{
                name: pl.when(told.filter(answered).is_not_null().all()).then(
                    told.filter(answered).cast(pl.Float64).sum()
                )
                for name, told in columns.items()
            },
        )
        .collect()
    )


def clock_seconds(store: Store, suite: str, round: str, *, stages: Sequence[str] | None = None) -> float | None:
    """On the clock with the engine at work, over stages, all of them where none is named.

    Returns:
        None: a stage paid for requests, and the ledger at hand does not know how long.
    """
    paid = store.scan("requests", suite=suite, round=round).filter(~pl.col("reused").fill_null(value=False))
    paying = [stage for stage in paid.select("stage").unique().collect()["stage"] if stages is None or stage in stages]
    if not paying:
        return 0.0
    if not store.ledger_path.exists():
        return None
    with store.ledger() as ledger:
        told = {stage: ledger.seconds(f"{suite}/{round}/{stage}") for stage in (*paying, EPISODES)}
    if ROLLOUTS in told and told[ROLLOUTS] is None:
        told[ROLLOUTS] = told[EPISODES]
    found = [told[stage] for stage in paying]
    return None if None in found else sum(found)


def made_by_task(
    store: Store, suite: str, round: str, *, stages: Sequence[str], labeller: str, continuations: int
) -> pl.DataFrame:
    """What stages made, and what labels and pairs there are.

    Args:
        stages:        whose leaves count.
        labeller:      whose labels count.
        continuations: that a step must have for its label to count.

    Returns:
        A row a task that has any: `task, judged_leaves, mixed_tasks, step_labels, pairs`.
    """
    of = {"suite": suite, "round": round}
    leaf = ["tree", "node", "verifier"]
    again = store.scan("verdicts", **of, stage=JUDGING).select(*leaf, again="reward")
    leaves = (
        pl.concat([store.scan("verdicts", **of, stage=stage) for stage in stages])
        .join(again, on=leaf, how="left")
        .select("task", reward=pl.coalesce("again", "reward"))
        .filter(pl.col("reward").is_not_null())
    )
    labels = store.scan("step_labels", **of, stage=labeller).filter(
        (pl.col("k") >= continuations) & (pl.col("node") > 0)
    )
    counted = [
        leaves.group_by("task").agg(
            judged_leaves=pl.len().cast(pl.Int64),
            mixed_tasks=((pl.col("reward") >= 1).any() & (pl.col("reward") < 1).any()).cast(pl.Int64),
        ),
        labels.group_by("task").agg(step_labels=pl.struct("tree", "node").n_unique().cast(pl.Int64)),
        store.scan("pairs", **of).group_by("task").agg(pairs=pl.len().cast(pl.Int64)),
    ]
    found = counted[0]
    for more in counted[1:]:
        found = found.join(more, on="task", how="full", coalesce=True)
    return found.fill_null(0).sort("task").collect()


def training_rows(store: Store, suite: str, round: str) -> dict[str, int]:
    """Rows of each table of training rows that the round has; those without a shard are left out."""
    found = {table: store.places(table, suite=suite, round=round) for table in DATASETS}
    return {table: sum(store.rows(table, place) for place in places) for table, places in found.items() if places}
