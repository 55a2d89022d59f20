"""Stage: a suite's tasks into their table. Tasks are the same in every round."""

from __future__ import annotations

from pipeline.errors import BadInput
from pipeline.report import Report
from pipeline.stages.work import Shards, Work, inputs, shards_of
from pipeline.store.layout import EVERY_ROUND
from pipeline.store.write import content_digest
from pipeline.tasks.suites import suite_tasks
from schemas import TABLES
from schemas.words import SPLITS

VERSION = "1"


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
    by_shard = shards_of(tasks)
    made_from = {name: inputs(VERSION, rows=content_digest(rows.to_arrow())) for name, rows in by_shard.items()}
    for name, rows, parts in shards.stale(by_shard, lambda shard: made_from[shard]):
        shards.write(name, parts, tasks=rows)
    for table in TABLES:
        for place in work.store.places(table, suite=work.suite.name):
            if place.shard not in by_shard and place.shard not in SPLITS:
                work.store.drop(table, place)
    return shards.finish(
        tasks=tasks.height,
        train=tasks.filter(tasks["split"] == "train").height,
        held_out=tasks.filter(tasks["split"] == "held_out").height,
        with_reference=tasks["reference_solution"].count(),
    )
