"""Stage: rows that process reward models are trained on, one file a labeller and shard; in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import polars as pl

from pipeline.builders.prm_steps import COLUMNS, OUTCOME, step_rows
from pipeline.cli_options import check_choice
from pipeline.errors import BadConfig, BadTable, check_counts
from pipeline.labels import LABELLERS
from pipeline.labels.choice import CHOSEN, DEFAULT, KINDS, ChoicePolicy, choose_labels, labellers
from pipeline.labels.ledger import newest
from pipeline.report import Report
from pipeline.stages.earlier import GENERATING, JUDGING, Earlier, judged_from, rollout_shards
from pipeline.stages.verdicts import present
from pipeline.stages.work import Shards, Work, inputs
from pipeline.store.batches import beside
from schemas import StepLabels, Verdicts
from schemas.base import column_types

TABLE = "prm_steps"
VERSION = "1"
BATCH_ROWS = 100_000
_READ = {
    "step_labels": (StepLabels, ("task", "tree", "node", "labeller", "version", "hard", "soft", "low", "high")),
    "verdicts": (Verdicts, ("task", "tree", "node", "version", "reward")),
}


@dataclass(frozen=True, slots=True)
class PrmStepsConfig:
    """labels: labeller whose step labels are read; outcome_broadcast, which lays the verdict of an attempt on each of
    its steps; or chosen: of each step the label of whom is trusted most. least: steps of an attempt that must
    have a label; 1 also takes attempts of which nothing but the end was judged. branches: take the branches of trees
    for attempts too, not the plain rollouts alone. trusted: labellers, or tool, human, monte_carlo, judge, the most
    so first. threshold: chance of success that an interval of monte_carlo must exclude to be taken.
    """

    labels: str = "monte_carlo"
    least: int = 2
    branches: bool = False
    trusted: tuple[str, ...] = DEFAULT.order
    threshold: float = DEFAULT.threshold

    @property
    def policy(self) -> ChoicePolicy:
        """How labels are chosen."""
        return ChoicePolicy(self.trusted, self.threshold)


def write_prm_steps(work: Work, config: PrmStepsConfig = PrmStepsConfig()) -> Report:
    """Build the rows of the round.

    Raises:
        BadConfig: a labeller is none, or it is said whom to trust where no label is chosen.
        BadTable: there are no labels of this labeller, or they were made before the trees changed.
    """
    check_counts(config, least=1)
    store, known = work.store, {place.stage for place in work.places("step_labels")}
    if config.labels != CHOSEN and config.policy != DEFAULT:
        raise BadConfig(
            f"trusted and threshold say nothing of labels {config.labels}", remedy=f"give them with labels {CHOSEN}"
        )
    for word in config.trusted:
        check_choice("trusted labeller", word, dict.fromkeys((*KINDS, *LABELLERS, *sorted(known))))
    check_choice("labels", config.labels, dict.fromkeys((OUTCOME, CHOSEN, *LABELLERS, *sorted(known))))
    asked = labellers(config.policy.order) if config.labels == CHOSEN else [config.labels]
    read = [name for name in asked if name in known]
    if config.labels != OUTCOME and not read:
        raise BadTable(
            f"suite {work.suite.name}, round {work.round} has no step labels of {' or '.join(asked)}",
            remedy=f"run `branchpoint step-labels`, or choose of {', '.join((*sorted(known), OUTCOME))}",
        )
    shards = Shards(work, config.labels, (TABLE,))
    made_from = inputs(VERSION, config=config)

    def parts(shard: str) -> dict[str, str]:
        found = {**made_from, **judged_from(work, shard, of=TABLE)}
        for name in read:
            Earlier(work, shard).refuse_replaced("step_labels", name)
        if read:
            digests = (f"{name} {store.digest('step_labels', work.place(name, shard))}" for name in read)
            found["labels"] = ", ".join(digests)
        return found

    origins = ("sample", "branch") if config.branches else ("sample",)
    for shard, _, said in shards.stale(rollout_shards(work, columns=()), parts):
        with store.writer(TABLE, work.place(config.labels, shard), inputs=said) as out:
            for nodes, labels in _batches(work, shard, config, read):
                rows = step_rows(
                    nodes, labels, suite=work.suite.name, labeller=config.labels, origins=origins, least=config.least
                )
                out.add(rows.sort("task", "row"))
    rows = store.scan(TABLE, suite=work.suite.name, round=work.round, stage=config.labels)
    hard = pl.col("hard").list.explode()
    found = rows.select(
        tasks=pl.col("task").n_unique(),
        steps=pl.col("steps").list.len().sum(),
        labelled=hard.count(),
        right_share=hard.mean(),
        tokens=pl.col("input_ids").list.len().sum(),
    ).collect()
    return shards.finish(**found.row(0, named=True))


def _batches(
    work: Work, shard: str, config: PrmStepsConfig, read: list[str]
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Whole tasks: their nodes, and what is said of them."""
    store, places, outcome = work.store, [work.place(stage, shard) for stage in GENERATING], config.labels == OUTCOME
    table = "verdicts" if outcome else "step_labels"
    sources = [*places, work.place(JUDGING, shard)] if outcome else [work.place(name, shard) for name in read]
    stands = {OUTCOME: present, CHOSEN: partial(choose_labels, policy=config.policy)}.get(config.labels, newest)
    kind, columns = _READ[table]
    nodes = store.batches("nodes", places, columns=COLUMNS, rows=BATCH_ROWS)
    for batch, (said,) in beside(nodes, store.batches(table, sources, columns=columns, rows=BATCH_ROWS)):
        rows = pl.DataFrame(schema=column_types(kind)) if said is None else pl.DataFrame(said)
        yield pl.DataFrame(batch).sort("tree", "node"), stands(rows)
