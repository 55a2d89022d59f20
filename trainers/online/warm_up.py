"""Before the first round: interventions on failed attempts, and a policy trained on them, from which the rounds begin.

They are a round of their own, whose name is the first round's with `-int`; what it decodes counts.
"""

from __future__ import annotations

import time
from dataclasses import replace

import polars as pl

from pipeline.stages.interventions import InterventionConfig, write_interventions
from pipeline.stages.patches import write_patches
from pipeline.stages.rollouts import RolloutConfig, write_rollouts
from pipeline.stages.verdicts import write_verdicts
from pipeline.stages.work import Shards, Work, inputs
from schemas import Evals
from schemas.base import column_types
from trainers.online.learners import make_room
from trainers.online.recipe import WarmUp
from trainers.online.round_work import RoundWork, settle
from trainers.online.watch import STAGE, decoded_tokens, figure_rows
from trainers.stages import policy_name, train_int_policy

VERSION = "1"
METHOD = "int"


def warm_round(first: str) -> str:
    """Name of the round before the first."""
    return f"{first}-{METHOD}"


def begun_from(work: Work) -> str:
    """Name of the policy that a run begins from, where it is warmed up.

    Args:
        work: surroundings of its first round.
    """
    return policy_name(replace(work, round=warm_round(work.round)), METHOD)


def warm_up(work: RoundWork, asked: WarmUp) -> None:
    """Make the policy that the rounds begin from; each part is left alone where it is current.

    Args:
        work: surroundings of the round before the first, with the policy that is given.
        asked: how much.

    Raises:
        BadConfig, BadInput: no intervention helped, so there is nothing to train on.
        BadModel: see `settle`.

    Source: InT (Yang et al., 2026).
    """
    started = time.monotonic()
    interventions = InterventionConfig(asked.interventions, continuations=asked.continuations)
    settle(work, [write_rollouts(work, RolloutConfig(group=asked.group)), write_interventions(work, interventions)])
    write_verdicts(work)
    write_patches(work)
    make_room()
    train_int_policy(work, asked.recipe())
    policy = policy_name(work, METHOD)
    shards = Shards(work, STAGE, ("evals",))
    made_from = inputs(VERSION, policy=replace(work, policy_name=policy).policy.fingerprint)
    for name, _, parts in shards.stale({"train": None}, lambda shard: made_from):
        found = {"decoded_tokens": decoded_tokens(work), "seconds": time.monotonic() - started}
        tasks = sum(len(tasks) for tasks in work.shards().values())
        rows = figure_rows(found, policy=policy, suite=work.suite.name, count=tasks)
        shards.write(name, parts, evals=pl.DataFrame(rows, schema=column_types(Evals), orient="row"))
