"""Which rows an update takes: of its own round, and of earlier ones as long as they are neither too old nor used up.

Knows no loss. Whatever is chosen follows from the rounds before, so a run that was cut off chooses the same again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl


def chosen_rows(
    rounds: Sequence[pl.DataFrame], *, age: int = 0, uses: int = 1, per_task: int = 0, seed: int = 0
) -> pl.DataFrame:
    """Rows of the last round's update.

    Args:
        rounds: of every round so far `task` and `row`.
        age: rounds after which a row is forgotten; 0: an update takes its own round alone.
        uses: updates that a row takes part in at most.
        per_task: rows of a task in an update: at random where a row is used once, else those of the highest priority,
            ties at random; 0: all.
        seed: of the draw.

    Returns:
        Columns `round` (from 0) and `row`, in the order of both.

    Source: R^3L's buffer (Shi et al., 2026): priority is the round less twice the uses, `uses` 3 there. SPO-tree (Guo
        et al., 2025) keeps what it did not use for 8 rounds and draws 32 a task: `age` 7, `uses` 1, `per_task` 32.
    """
    pool = pl.concat(
        [
            rows.select("task", "row", round=pl.lit(number, pl.Int64), used=pl.lit(0))
            for number, rows in enumerate(rounds)
        ]
    )
    taken = pool.clear()
    for now in range(len(rounds)):
        here = pool.filter(pl.col("round").is_between(now - age, now) & (pl.col("used") < uses)).sort("round", "row")
        if per_task:
            priority = pl.col("round") - 2 * pl.col("used") if uses > 1 else pl.lit(0)
            draw = np.random.default_rng([seed, now]).random(len(here))
            ranked = here.with_columns(priority=priority, draw=pl.Series(draw))
            ranked = ranked.sort("priority", "draw", descending=[True, False])
            here = ranked.group_by("task", maintain_order=True).head(per_task).select(here.columns)
        taken = here.sort("round", "row")
        pool = pool.with_columns(
            used=pl.col("used") + pl.struct("round", "row").is_in(taken.select("round", "row").to_struct().implode())
        )
    return taken.select("round", "row")
