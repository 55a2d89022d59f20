"""Audit of what stands on what: every shard of a round was made from what the store now holds.

Reads what files say of themselves, never their rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from pipeline.errors import BadTable
from pipeline.settings import Settings
from pipeline.stages.earlier import GENERATING, ROLLOUTS, Earlier, refuse_replaced
from pipeline.stages.work import Work
from pipeline.store.audit import Audited
from pipeline.store.store import Store
from pipeline.tasks.suites import Suite

ANNOTATED = (
    *("scores", "credit", "step_labels", "pairs", "patches", "prm_steps", "sft", "unpaired", "rl_prompts"),
    "sessions",
)


def audit_standing(store: Store, *, suite: str | None = None, round: str | None = None) -> Iterator[Audited]:
    """Check by table that nothing was replaced under what was made from it; the first that was is named."""
    rounds = {(place.suite, place.round) for place in store.places("nodes", suite=suite, round=round)}
    for of_suite, of_round in sorted(rounds):
        work = _by_name(store, of_suite, of_round)
        shards = sorted({place.shard for place in work.places("nodes", stage=ROLLOUTS)})
        yield _told(work, "nodes", lambda work=work, shards=shards: [_grown(work, shard) for shard in shards])
        for table in ANNOTATED:
            if work.places(table):
                yield _told(work, table, lambda work=work, table=table: refuse_replaced(work, table))


def _grown(work: Work, shard: str) -> None:
    Earlier(work, shard).digests(GENERATING)


def _told(work: Work, table: str, look: Callable[[], object]) -> Audited:
    try:
        look()
    except BadTable as error:
        return Audited(table, work.suite.name, work.round, "made_from", False, str(error))
    return Audited(table, work.suite.name, work.round, "made_from", True, "made from what the store holds")


def _by_name(store: Store, suite: str, round: str) -> Work:
    """Surroundings of a suite of which no more than its name is known."""
    unknown = Suite(suite, description="", prompts="", separator="", max_tokens=1, bands=(), base=Path())
    return Work(replace(Settings(), store=store.root), unknown, round)
