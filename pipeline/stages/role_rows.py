"""Stage: what each role is to imitate, out of trees of roles (MALT)."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from pipeline.builders.malt import ROLES
from pipeline.builders.roles import role_sft
from pipeline.credit.malt import MaltParams
from pipeline.report import Report
from pipeline.stages.judging import rewards_by_node
from pipeline.stages.verdicts import judged_shards
from pipeline.stages.work import Shards, Work, inputs
from pipeline.trees.grow import read_trees
from schemas import Sft
from schemas.base import column_types

STAGE = "role_rows"
VERSION = "1"


@dataclass(frozen=True, slots=True)
class RoleRowConfig:
    """threshold: value that an output must pass to be imitated."""

    threshold: float = 0.5


def write_role_rows(work: Work, config: RoleRowConfig = RoleRowConfig()) -> Report:
    """Build the rows of good outputs of every role."""
    params = MaltParams(config.threshold)
    shards = Shards(work, STAGE, ("sft",))
    made_from = inputs(VERSION, config=config)
    for shard in judged_shards(shards, made_from):
        rewards = rewards_by_node(shard.verdicts)
        rows = [
            row
            for tree in read_trees(shard.nodes).values()
            for row in role_sft(tree, rewards, suite=work.suite.name, params=params)
        ]
        shards.write(shard.name, shard.made_from, sft=pl.DataFrame(rows, schema=column_types(Sft), orient="row"))
    rows = work.store.scan("sft", suite=work.suite.name, round=work.round, stage=STAGE)
    counts = dict(rows.group_by("role").len().collect(engine="streaming").iter_rows())
    return shards.finish(**{role: counts.get(role, 0) for role in ROLES})
