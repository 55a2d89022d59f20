"""Stage: step credit under a list of methods, one row per node a method looks at, one file a method and shard.

A shard is read in batches of whole tasks, so its size does not matter; a method whose numbers depend on other tasks
too has a whole shard for its batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa

from pipeline.credit import METHODS, labelled, scored_by
from pipeline.credit.columns import Method
from pipeline.credit.inputs import INPUTS, SCORES
from pipeline.credit.lacking import always_known, has, lacking
from pipeline.credit.scored import BadScore
from pipeline.credit.tables import FEW_WORDS, columns_for, credit_frame, seen_by, trees_from_nodes
from pipeline.errors import BadConfig, BadTable
from pipeline.labels import LABELLERS
from pipeline.labels.ledger import STEP, newest
from pipeline.report import Report
from pipeline.stages.earlier import GENERATING, JUDGING, Earlier, judged_from, rollout_shards
from pipeline.stages.params import read_json_params
from pipeline.stages.verdicts import present
from pipeline.stages.work import Shards, Work, inputs
from pipeline.store.batches import beside
from schemas import TABLES, Scores, StepLabels, Verdicts
from schemas.base import column_types

VERSION = "3"
BATCH_ROWS = 200_000
_VERDICTS = ("task", "tree", "node", "version", "reward")
_TOLD_BY = {
    "nodes": ("tree", "node", "parent", "origin", "kind", "agent"),
    "step_labels": (*STEP, "version"),
    SCORES: ("tree", "node"),
}
"""Columns that say whether a method is given a row."""


@dataclass(frozen=True, slots=True)
class CreditConfig:
    """method: one or more keys of METHODS. params: JSON object of what shall not be as published, where one method is
    given. labeller: whose step labels are read, by methods that need any.
    """

    method: tuple[str, ...] = ("spo_tree",)
    params: str = ""
    labeller: str = "monte_carlo"


class Batch(NamedTuple):
    """Whole tasks: the nodes a method looks at, the verdicts that stand, the labels and scores that it needs."""

    nodes: pl.DataFrame
    verdicts: pl.DataFrame
    labels: pl.DataFrame | None
    scores: dict[str, pl.DataFrame]


def write_credit(work: Work, config: CreditConfig = CreditConfig()) -> list[Report]:
    """Credit every node of the round under each method; files of other methods are not touched.

    Returns:
        A report a method, in order.

    Raises:
        BadConfig: there is no such method or parameter.
        BadTable: the whole round has nothing of what a method needs, or the rows are no trees.
    """
    names = list(dict.fromkeys(config.method))
    for name in names:
        if name not in METHODS:
            raise BadConfig(f"credit method {name!r} does not exist", remedy=f"choose of {', '.join(METHODS)}")
    if config.params and len(names) != 1:
        raise BadConfig("parameters are given for several methods", remedy="name one method with them")
    params = [read_params(name, config.params) for name in names]
    if config.labeller not in LABELLERS:
        raise BadConfig(f"labeller {config.labeller!r} does not exist", remedy=f"choose of {', '.join(LABELLERS)}")
    return [_write(work, name, options, config.labeller) for name, options in zip(names, params, strict=True)]


def read_params(name: str, text: str) -> Any:
    """A method's parameters: the published ones, but for what a JSON object says.

    Raises:
        BadConfig: it is none, or names no parameter of the method, or a value that it cannot have.
    """
    return read_json_params(METHODS[name].params(), text, of=name)


def batches(
    work: Work, method: Method, shard: str, *, labeller: str = "monte_carlo", rows: int = BATCH_ROWS
) -> Iterator[Batch]:
    """A shard as a method reads it.

    Args:
        labeller: whose labels it reads, where it needs any.
        rows: about how many nodes a batch has.
    """
    read = partial(work.store.batches, rows=rows)
    places = [work.place(stage, shard) for stage in GENERATING]
    sources = [read("verdicts", [*places, work.place(JUDGING, shard)], columns=_VERDICTS, dictionary=FEW_WORDS)]
    scores = scored_by(method)
    sources += [read(SCORES, [work.place(name, shard)]) for name in scores]
    if labelled(method):
        sources.append(read("step_labels", [work.place(labeller, shard)]))
    nodes = read("nodes", places, columns=columns_for(method), dictionary=FEW_WORDS)
    for batch, (verdicts, *others) in beside(nodes, *sources):
        said, labels = others[: len(scores)], others[len(scores) :]
        yield Batch(
            nodes=pl.DataFrame(batch).filter(seen_by(method)),
            verdicts=present(_frame(verdicts, Verdicts).select(_VERDICTS)),
            labels=newest(_frame(labels[0], StepLabels)) if labels else None,
            scores={name: _frame(rows, Scores) for name, rows in zip(scores, said, strict=True)},
        )


def refuse_lacking(work: Work, method: Method, *, labeller: str = "monte_carlo") -> None:
    """Make sure that the round has something of all that a method needs, be it of one task.

    Reads an input's column as far as the first row that has it.

    Args:
        labeller: whose labels it reads, where it needs any.

    Raises:
        BadTable: it has nothing; names table, first row and remedy.
    """
    for name in method.needs:
        if always_known(name):
            continue
        first = _frame(None, TABLES[INPUTS[name].table])
        for rows in _rows_of(work, method, name, labeller):
            if has(rows, name):
                break
            first = rows if first.is_empty() else first
        else:
            raise lacking(first, name)


def _rows_of(work: Work, method: Method, name: str, labeller: str) -> Iterator[pl.DataFrame]:
    """The rows from which a method is given an input, in small batches."""
    table, column = INPUTS[name].table, INPUTS[name].column
    stages = {"nodes": GENERATING, "step_labels": (labeller,), SCORES: (name,)}[table]
    for shard in rollout_shards(work, columns=()):
        places = [work.place(stage, shard) for stage in stages]
        for batch in work.store.batches(table, places, columns=(*_TOLD_BY[table], column), rows=1):
            rows = pl.DataFrame(batch)
            if table == "nodes":
                rows = rows.filter(seen_by(method))
            yield newest(rows) if table == "step_labels" else rows


def _write(work: Work, name: str, params: Any, labeller: str) -> Report:
    method, store = METHODS[name].under(params), work.store
    shards = Shards(work, name, ("credit",))
    made_from = inputs(VERSION, config=params, method=f"{name} {method.version}")

    def parts(shard: str) -> dict[str, str]:
        found = {**made_from, **judged_from(work, shard, of="credit")}
        earlier = Earlier(work, shard)
        if labelled(method):
            earlier.refuse_replaced("step_labels", labeller)
            found["labels"] = f"{labeller} {store.digest('step_labels', work.place(labeller, shard))}"
        for given in scored_by(method):
            earlier.refuse_replaced(SCORES, given)
            earlier.refuse_otherwise(given, {of: getattr(params, of) for of in method.judged_alike}, method=name)
            found[f"scores {given}"] = store.digest(SCORES, work.place(given, shard))
        return found

    for number, (shard, _, said) in enumerate(shards.stale(rollout_shards(work, columns=()), parts)):
        if not number:
            refuse_lacking(work, method, labeller=labeller)
        read = batches(work, method, shard, labeller=labeller, rows=BATCH_ROWS)
        with store.writer("credit", work.place(name, shard), inputs=said) as out:
            for batch in _joined(read) if method.across_tasks(params) else read:
                out.add(credited(name, method, params, batch))
    credit = store.scan("credit", suite=work.suite.name, round=work.round, stage=name)
    found = credit.select(
        credited=pl.col("advantage").count(),
        nonzero=(pl.col("advantage") != 0).sum(),
        mean_abs_advantage=pl.col("advantage").abs().mean(),
    ).collect()
    row = found.row(0, named=True)
    return shards.finish(
        credited=row["credited"],
        nonzero_share=row["nonzero"] / max(1, row["credited"]),
        mean_abs_advantage=row["mean_abs_advantage"],
    )


def credited(name: str, method: Method, params: Any, batch: Batch) -> pl.DataFrame:
    """Rows of the credit table of a batch."""
    nodes = batch.nodes.sort("tree", "node")
    trees = trees_from_nodes(
        nodes, batch.verdicts, needs=method.needs, judged=method.judged, labels=batch.labels, scores=batch.scores
    )
    try:
        said = method.function(trees, params)
    except BadScore as error:
        at = nodes.row(error.row, named=True)
        raise BadTable(f"{error.culprit} (tree {at['tree']}, node {at['node']})", remedy=error.remedy) from error
    rows = credit_frame(nodes, trees, said, name)
    return rows.sort("task", "tree", "node")


def _joined(read: Iterable[Batch]) -> list[Batch]:
    """All batches as one; none, where there are none."""
    found = list(read)
    labels = [batch.labels for batch in found if batch.labels is not None]
    nodes, verdicts = [batch.nodes for batch in found], [batch.verdicts for batch in found]
    if not found:
        return []
    scores = {name: pl.concat([batch.scores[name] for batch in found]) for name in found[0].scores}
    return [Batch(pl.concat(nodes), pl.concat(verdicts), pl.concat(labels) if labels else None, scores)]


def _frame(rows: pa.Table | None, table: type) -> pl.DataFrame:
    return pl.DataFrame(schema=column_types(table)) if rows is None else pl.DataFrame(rows)
