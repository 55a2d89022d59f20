"""A round's credit and step labels side by side with its trees, read a shard at a time. Measures nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np
import polars as pl

from pipeline.credit import METHODS, labelled, scored_by
from pipeline.credit.columns import Method
from pipeline.credit.inputs import INPUTS, SCORES
from pipeline.credit.tables import columns_for, seen_by
from pipeline.credit_report.anew import LABELS, SCORE
from pipeline.credit_report.calibration import states_chances
from pipeline.credit_report.cost import GROWN_BY, decoded_by
from pipeline.credit_report.scores import Scores
from pipeline.labels import LABELLERS
from pipeline.labels.ledger import newest
from pipeline.stages.earlier import GENERATING, JUDGING, ROLLOUTS
from pipeline.stages.verdicts import present
from pipeline.stages.work import Work
from pipeline.tasks.arithmetic import read_sum, steps_right

TABLES = {"credit": "advantage", "step_labels": "soft"}
"""What is measured, and the column that scores a step."""
_FOR_LABELLERS = ("task", "tree", "node", "parent", "depth", "kind", "origin", "token_ids")
_FOR_ORACLE = ("text", "finish")
_FOR_COSTS = ("sampled", "token_count")


@dataclass(frozen=True, slots=True)
class Source:
    """A credit method of the round, or a labeller.

    method:   what can be run again; None for a labeller, and for a method that is not among METHODS.
    params:   those it was run with.
    labeller: whose labels it is made from, or it is; empty: none.
    scored:   the scores it is made from, each with the stage that decoded for it, as `decoded_by` says.
    valued:   whether its values can be chances, and made anew.
    """

    table: str
    stage: str
    method: Method | None
    params: Any
    labeller: str
    scored: Mapping[str, str | None]
    valued: bool

    @property
    def policy(self) -> str:
        """Its name in the table of evaluations."""
        return f"{self.table}/{self.stage}"


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """The chosen tasks of a shard.

    nodes:    their nodes by tree and number, with `reward`, `hard:` and `soft:` of each labeller, and `score:` of each
              input that a source is made from.
    scores:   `task, tree, node` of every step, and a column a source, by its name.
    attempts: see `oracle_steps`.
    decoded:  tokens decoded by each stage that grows trees, and by each judge whose scores a source is made from.
    labels:   tokens decoded for each labeller's labels.
    read:     tokens of the nodes that each method looks at, by name of the source.
    """

    nodes: pl.DataFrame
    scores: pl.DataFrame
    attempts: pl.DataFrame
    decoded: Counter[str]
    labels: Counter[str]
    read: Counter[str]


def read_sources(work: Work) -> list[Source]:
    """What there is of credit and labels in the round: methods, then labellers."""
    found = []
    for table in TABLES:
        places = {place.stage: place for place in work.places(table)}
        for stage in sorted(places):
            if table == "step_labels":
                found.append(Source(table, stage, None, None, stage, {}, stage in LABELLERS))
                continue
            said = work.store.entry(table, places[stage]).inputs
            method = METHODS.get(stage)
            params = None if method is None else _read_params(method, said.get("config", "{}"))
            method = method and method.under(params)
            of = said.get("labels", "monte_carlo").split(" ")[0] if method and labelled(method) else ""
            scored = {name: _decoded_by(work, name) for name in scored_by(method)} if method else {}
            values = work.store.scan(table, suite=work.suite.name, round=work.round, stage=stage).select("value")
            low, high = values.select(low=pl.min("value"), high=pl.max("value")).collect().row(0)
            again = method is not None and of in ("", *LABELLERS)
            found.append(Source(table, stage, method, params, of, scored, again and states_chances(low, high)))
    return found


def _decoded_by(work: Work, name: str) -> str | None:
    """The stage that decoded for the round's scores of a name; None too where its shards differ."""
    asking = {place.stage for place in work.places("requests")}
    said = [work.store.entry(SCORES, place).inputs for place in work.places(SCORES, stage=name)]
    stages = {decoded_by(name, one, asking) for one in said}
    return stages.pop() if len(stages) == 1 else None


def _read_params(method: Method, text: str) -> Any:
    """The parameters that a file of credit says it was made with."""
    known = json.loads(text)
    return replace(
        method.params(), **{key: tuple(value) if isinstance(value, list) else value for key, value in known.items()}
    )


def slices(work: Work, sources: list[Source], shards: dict[str, pl.DataFrame], *, most: int) -> Iterator[Slice]:
    """Every shard's part of at most so many tasks, which lie evenly over the round."""
    store = work.store
    every = max(1, ceil(sum(tasks.height for tasks in shards.values()) / most))
    wanted = columns_of(sources)
    done = 0
    for shard, all_tasks in shards.items():
        tasks = all_tasks["task"].gather_every(every, offset=-done % every)
        done += all_tasks.height
        if not len(tasks):
            continue
        here = pl.col("task").is_in(tasks.implode())
        read = {
            stage: store.read("nodes", [work.place(stage, shard)], columns=wanted).filter(here) for stage in GENERATING
        }
        nodes = pl.concat(read.values()).sort("task", "tree", "node")
        places = [work.place(stage, shard) for stage in (*GENERATING, JUDGING)]
        columns = ["task", "tree", "node", "version", "reward"]
        verdicts = present(store.read("verdicts", places, columns=columns).filter(here))
        nodes = _beside(nodes, verdicts, ["reward"])
        scores = nodes.filter(pl.col("origin") != "prompt").select("task", "tree", "node")
        labels: Counter[str] = Counter()
        for source in sources:
            column, place = TABLES[source.table], work.place(source.stage, shard)
            if source.table == "step_labels":
                rows = newest(store.read(source.table, [place]).filter(here))
                labels[source.stage] = int(rows["tokens"].sum() or 0)
                names = {name: f"{name}:{source.stage}" for name in LABELS}
                nodes = _beside(nodes, rows.rename(names), list(names.values()))
            else:
                rows = store.read(source.table, [place], columns=["task", "tree", "node", column]).filter(here)
            scores = _beside(scores, rows.rename({column: source.policy}), [source.policy])
        given = {name: stage for source in sources for name, stage in source.scored.items()}
        for name in given:
            column = INPUTS[name].column
            rows = store.read(SCORES, [work.place(name, shard)], columns=["task", "tree", "node", column]).filter(here)
            nodes = _beside(nodes, rows.rename({column: SCORE + name}), [SCORE + name])
        decoded = _decoded(read)
        for stage in set(given.values()) - {None, "", *GENERATING}:
            asked = store.read("requests", [work.place(stage, shard)], columns=["decoded_tokens"])
            # not by task: LaRe asks once for all of the round
            decoded[stage] = int(asked["decoded_tokens"].sum() or 0) * len(tasks) / all_tasks.height
        yield Slice(
            nodes,
            scores,
            oracle_steps(read[ROLLOUTS], dict(all_tasks.select("task", "question").iter_rows())),
            decoded,
            labels,
            Counter(
                {
                    source.policy: int(nodes.filter(seen_by(source.method))["token_count"].sum())
                    for source in sources
                    if source.method
                }
            ),
        )


def _decoded(nodes: Mapping[str, pl.DataFrame]) -> Counter[str]:
    """Tokens decoded for nodes, by the stage that they count as: those of rollouts as GROWN_BY says."""
    found: Counter[str] = Counter()
    for stage, rows in nodes.items():
        for origin, tokens in rows.filter("sampled").group_by("origin").agg(pl.sum("token_count")).iter_rows():
            found[GROWN_BY.get(origin, stage) if stage == ROLLOUTS else stage] += tokens
    return found


def numbered(part: Slice, names: list[str], *, before: int) -> Scores:
    """A slice as arrays, a column a source.

    Args:
        names: of the sources, in the order of the columns.
        before: steps of the slices before it, which its rows come after; tasks and attempts are numbered from 0.
    """
    steps = part.scores.with_row_index("row")
    here = steps.select("tree", "node", "row")
    attempts = part.attempts.join(here, on=["tree", "node"], how="inner", maintain_order="left")
    right = np.full(len(steps), np.nan, np.float32)
    right[attempts["row"].to_numpy()] = attempts["right"].cast(pl.Float32).fill_null(np.nan).to_numpy()
    score = steps.select(pl.col(names).cast(pl.Float32).fill_null(np.nan)).to_numpy() if names else None
    return Scores(
        score=np.empty((len(steps), 0), np.float32) if score is None else score.reshape(len(steps), len(names)),
        task=steps["task"].rle_id().to_numpy().astype(np.int64),
        right=right,
        attempt=attempts.select(pl.struct("tree", "attempt").rle_id()).to_series().to_numpy().astype(np.int64),
        step=attempts["row"].to_numpy().astype(np.int64) + before,
    )


def joined(parts: list[Scores]) -> Scores:
    """Slices as one, the numbers of tasks and attempts going on from one to the next."""

    def running(name: str) -> np.ndarray:
        found, start = [], 0
        for part in parts:
            found.append(getattr(part, name) + start)
            start += int(getattr(part, name).max(initial=-1)) + 1
        return np.concatenate(found)

    score, right, step = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("score", "right", "step")
    )
    return Scores(score=score, task=running("task"), right=right, attempt=running("attempt"), step=step)


def some_tasks(part: Slice, names: list[str], *, every: int, before: int) -> pl.DataFrame:
    """Every so manieth task, counted from the first of the round: its nodes with what each source says of them."""
    tasks = part.nodes["task"].unique(maintain_order=True).gather_every(every, offset=-before % every)
    nodes = part.nodes.filter(pl.col("task").is_in(tasks.implode()))
    return nodes.join(
        part.scores.select("tree", "node", *names), on=["tree", "node"], how="left", maintain_order="left"
    )


def columns_of(sources: list[Source]) -> list[str]:
    """The columns of nodes that the oracle, some methods and all labellers are made from."""
    methods = [column for source in sources if source.method for column in columns_for(source.method)]
    return list(dict.fromkeys((*_FOR_LABELLERS, *_FOR_ORACLE, *_FOR_COSTS, *methods)))


def oracle_steps(nodes: pl.DataFrame, questions: dict[str, str]) -> pl.DataFrame:
    """The steps of plain attempts, and what the oracle of sums says of them.

    Args:
        nodes: those of plain rollouts: `tree`, `node`, `parent`, `text`, `finish`, by tree and node.
        questions: text of each task's.

    Returns:
        `tree, attempt` (its leaf), `node, right`, an attempt's steps in order. Right is null after the first wrong
        step, and throughout where the task is no sum.
    """
    columns = ("task", "tree", "node", "parent", "text", "finish")
    rows = []
    for (tree,), group in nodes.select(columns).group_by("tree", maintain_order=True):
        known = {row[2]: row for row in group.iter_rows()}
        problem = read_sum(questions[group["task"][0]])
        for leaf, row in known.items():
            if row[5] is None:
                continue
            path = [leaf]
            while (above := known[path[-1]][3]) is not None:
                path.append(above)
            path = path[-2::-1]
            right = [None] * len(path) if problem is None else _up_to_first_wrong(problem, [known[n][4] for n in path])
            rows += [(tree, leaf, node, said) for node, said in zip(path, right, strict=True)]
    schema = {"tree": pl.String, "attempt": pl.Int32, "node": pl.Int32, "right": pl.Boolean}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _up_to_first_wrong(problem: Any, texts: list[str]) -> list[bool | None]:
    right: list[bool | None] = list(steps_right(problem, texts))
    if False in right:
        first = right.index(False) + 1
        right[first:] = [None] * (len(right) - first)
    return right


def _beside(rows: pl.DataFrame, others: pl.DataFrame, columns: list[str]) -> pl.DataFrame:
    """The same rows with columns of another table of nodes; null where it has no row."""
    return rows.join(
        others.select("tree", "node", *columns), on=["tree", "node"], how="left", maintain_order="left", validate="m:1"
    )
