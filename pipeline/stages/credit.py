"""Stage: step credit under one method, one row per node the method looks at."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from pipeline.credit import METHODS
from pipeline.credit.columns import credit_frame, trees_from_nodes
from pipeline.errors import BadConfig
from pipeline.report import Report
from pipeline.stages.verdicts import judged_shards
from pipeline.stages.work import Shards, Work, inputs

VERSION = "1"


@dataclass(frozen=True, slots=True)
class CreditConfig:
    """method: key of METHODS; its parameters are the published ones."""

    method: str = "spo_tree"


def write_credit(work: Work, config: CreditConfig = CreditConfig()) -> Report:
    """Credit every node of the round under a method.

    Raises:
        BadConfig: there is no such method.
    """
    if config.method not in METHODS:
        raise BadConfig(f"credit method {config.method!r} does not exist", remedy=f"choose one of {', '.join(METHODS)}")
    method = METHODS[config.method]
    shards = Shards(work, config.method, ("credit",))
    made_from = inputs(VERSION, config=method.params())
    for shard in judged_shards(shards, made_from):
        kept = shard.nodes.filter(
            pl.col("origin").is_in(method.origins) & ((pl.col("origin") != "prompt") | pl.col("parent").is_null())
        ).sort("tree", "node")
        trees = trees_from_nodes(kept, shard.verdicts)
        columns = method.function(trees, method.params())
        shards.write(shard.name, shard.made_from, credit=credit_frame(kept, trees, columns, config.method))
    credit = shards.read("credit").filter(pl.col("advantage").is_not_null())
    return shards.finish(
        credited=credit.height,
        nonzero_share=credit.filter(pl.col("advantage") != 0).height / max(1, credit.height),
        mean_abs_advantage=credit["advantage"].abs().mean(),
    )
