"""Step labellers, by name."""

from collections.abc import Callable

import polars as pl

from pipeline.labels.monte_carlo import monte_carlo

LABELLERS: dict[str, Callable[[pl.DataFrame, pl.DataFrame], pl.DataFrame]] = {
    "monte_carlo": monte_carlo,
}
