"""Stage: a suite's tasks into their table. Tasks are the same in every round."""

from __future__ import annotations

from pipeline.errors import BadInput
from pipeline.report import Report
from pipeline.stages.work import Shards, Work, inputs, shards_of
from pipeline.store.digest import content_digest
from pipeline.store.layout import EVERY_ROUND
from pipeline.tasks.suites import Suite, more_tasks, suite_tasks
from schemas import TABLES
from schemas.words import SPLITS

VERSION = "1"
_WITHOUT = {"train": "nothing can be sampled", "held_out": "no policy can be evaluated"}
"""What a suite cannot do without tasks of a split."""


def write_tasks(work: Work) -> Report:
    """Read the sources of the suite and store its tasks.

    What other tables hold of shards the suite no longer has goes with them; what was sampled stays in the ledger.

    Raises:
        BadInput, BadConfig: a source cannot be read; nothing is written.
    """
    every = Work(work.settings, work.suite, EVERY_ROUND, work.policy_name, work.engine, work.on_progress)
    tasks = suite_tasks(work.suite)
    if tasks.is_empty():
        raise BadInput(f"suite {work.suite.name} has no tasks", remedy="give its bands something to read")
    shards = Shards(every, "tasks", ("tasks",))
    by_shard = shards_of(tasks, size=work.suite.shard_tasks)
    made_from = {name: inputs(VERSION, rows=content_digest(rows.to_arrow())) for name, rows in by_shard.items()}
    for name, rows, parts in shards.stale(by_shard, lambda shard: made_from[shard]):
        shards.write(name, parts, tasks=rows)
    for table in TABLES:
        for place in work.store.places(table, suite=work.suite.name):
            if place.shard not in by_shard and place.shard not in SPLITS:
                work.store.drop(table, place)
    report = shards.finish(
        train=tasks.filter(tasks["split"] == "train").height,
        held_out=tasks.filter(tasks["split"] == "held_out").height,
        with_reference=tasks["reference_solution"].count(),
    )
    report.notes = tuple(note_empty(work.suite, split) for split in SPLITS if tasks.filter(split=split).is_empty())
    return report


def note_empty(suite: Suite, split: str) -> str:
    """What it means that a suite has no tasks of a split, and what to change."""
    return f"there are no {split} tasks, so {_WITHOUT[split]}; to have some, {more_tasks(suite, split)}"
