"""Stage: attempts with behaviour log-probabilities and one method's credit of their tokens, for online RL.

A shard is read in batches of whole tasks. Each method has files of its own, as in the table of credit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import polars as pl

from pipeline.builders.rl_samples import CREDIT_COLUMNS, NODE_COLUMNS, SHARED, rl_rows
from pipeline.credit import METHODS
from pipeline.errors import BadConfig, BadTable, check_words
from pipeline.report import Report
from pipeline.stages.earlier import Earlier, judged_from, rollout_shards
from pipeline.stages.judged_batches import BATCH_ROWS, judged_batches
from pipeline.stages.work import Shards, Work, inputs
from schemas import Credit
from schemas.base import column_types

TABLE = "rl_samples"
VERSION = "1"
Shared = Literal["branches", "once"]


@dataclass(frozen=True, slots=True)
class RlSampleConfig:
    """method: key of METHODS whose credit is read. shared: what attempts have in common is trained in each of them, or
    once.
    """

    method: str = "grpo"
    shared: Shared = "branches"


def write_rl_samples(work: Work, config: RlSampleConfig = RlSampleConfig()) -> Report:
    """Build the samples of the round under one credit method.

    Raises:
        BadConfig: there is no such method or word.
        BadTable: the round has no credit of it, or it was made before nodes or verdicts changed.
    """
    name, store = config.method, work.store
    if name not in METHODS:
        raise BadConfig(f"credit method {name!r} does not exist", remedy=f"choose of {', '.join(METHODS)}")
    check_words(config, of=TABLE, shared=SHARED)
    shards = Shards(work, name, (TABLE,))
    made_from = inputs(VERSION, config=config)

    def parts(shard: str) -> dict[str, str]:
        earlier = Earlier(work, shard)
        earlier.refuse_replaced("credit", name)
        credit = earlier.entry("credit", name)
        if credit is None:
            raise BadTable(
                f"the store has no credit {name} of {work.suite.name}, round {work.round}, {shard}",
                remedy=f"run `branchpoint credit --method {name} --suite {work.suite.name} --round {work.round}` first",
            )
        return {**made_from, **judged_from(work, shard, of=TABLE), "credit": f"{name} {credit.digest}"}

    for shard, _, said in shards.stale(rollout_shards(work, columns=()), parts):
        credit = store.batches("credit", [work.place(name, shard)], columns=CREDIT_COLUMNS, rows=BATCH_ROWS)
        with store.writer(TABLE, work.place(name, shard), inputs=said) as out:
            for nodes, verdicts, credited in judged_batches(work, shard, credit, columns=NODE_COLUMNS):
                if credited is not None:
                    rows = rl_rows(
                        nodes,
                        pl.DataFrame(credited, schema_overrides=column_types(Credit)),
                        verdicts,
                        suite=work.suite.name,
                        method=name,
                        shared=config.shared,
                    )
                    out.add(rows)
    found = store.scan(TABLE, suite=work.suite.name, round=work.round, stage=name)
    numbers = found.select(
        trees=pl.col("tree").n_unique(),
        trained_tokens=pl.col("loss_mask").list.sum().sum(),
        mean_reward=pl.col("reward").mean(),
        idle_share=(pl.col("advantages").list.eval(pl.element().abs()).list.max().fill_null(0) == 0).mean(),
    ).collect()
    return shards.finish(**numbers.row(0, named=True))
