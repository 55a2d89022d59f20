"""Finds out what a card says of a round: counts, requests, stages, one example. Reads the store, words nothing."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import polars as pl

from pipeline.credit import METHODS
from pipeline.errors import BadTable
from pipeline.labels import LABELLERS
from pipeline.publish.facts import (
    ConfigFacts,
    Example,
    ExampleStep,
    MethodFacts,
    OriginFacts,
    ReleaseFacts,
    RepeatFacts,
    RequestFacts,
    StageFacts,
    VerifierFacts,
)
from pipeline.store.layout import EVERY_ROUND, Place
from pipeline.store.store import Store
from schemas import TABLES
from schemas.words import ORIGINS, SPLITS

JUDGES_LAST = "verdicts"
"""Stage whose verdicts stand in place of those other stages gave of the same leaf."""

_LONGEST_INPUT = 80
_LEAF = ["tree", "node"]


@dataclass(frozen=True, slots=True)
class Source:
    """One round of a suite in a store."""

    store: Store
    suite: str
    round: str

    def places(self, table: str) -> list[Place]:
        """The shards of a table; tasks are those of every round."""
        return self.store.places(table, suite=self.suite, round=EVERY_ROUND if table == "tasks" else self.round)

    def read(self, table: str, *, columns: list[str] | None = None) -> pl.DataFrame:
        """The rows of a table, of verdicts those that stand."""
        places = self.places(table)
        rows = self.store.read(table, places, columns=columns)
        if table != "verdicts" or not any(place.stage == JUDGES_LAST for place in places):
            return rows
        last, before = (
            self.store.read(table, [place for place in places if (place.stage == JUDGES_LAST) is late])
            for late in (True, False)
        )
        standing = pl.concat([before.join(last, on=TABLES[table].primary_key(), how="anti"), last])
        return standing.sort("task", *TABLES[table].primary_key()).select(rows.columns)

    def splits(self) -> pl.DataFrame:
        """Columns `task` and `split`.

        Raises:
            BadTable: the suite has no tasks in the store.
        """
        tasks = self.read("tasks", columns=["task", "split"])
        if tasks.is_empty():
            raise BadTable(f"suite {self.suite} has no tasks in the store", remedy="write its tasks first")
        return tasks


def gather_facts(source: Source, configs: Iterable[ConfigFacts], *, licence: str, language: str) -> ReleaseFacts:
    """All that the card of a round says."""
    columns = [*_LEAF, "kind", "origin", "finish", "sampled", "request", "copied_from", "token_ids"]
    nodes = source.read("nodes", columns=columns).with_columns(tokens=pl.col("token_ids").list.len().cast(pl.Int64))
    nodes = nodes.drop("token_ids")
    verdicts = source.read("verdicts")
    rewards = verdicts.group_by(_LEAF).agg(pl.col("reward").mean())
    ends = nodes.filter((pl.col("kind") == "step") & pl.col("finish").is_not_null())
    leaves = ends.join(rewards, on=_LEAF, how="left", maintain_order="left")
    splits = source.splits()["split"]
    return ReleaseFacts(
        suite=source.suite,
        round=source.round,
        licence=licence,
        language=language,
        configs=tuple(configs),
        tasks={split: int((splits == split).sum()) for split in SPLITS},
        trees=nodes["tree"].n_unique(),
        nodes=nodes.height,
        tokens=int(nodes["tokens"].sum()),
        sampled_tokens=int(nodes.filter("sampled")["tokens"].sum()),
        origins=_origins(leaves),
        repeats=_repeats(source, nodes),
        requests=_requests(source),
        verifiers=_verifiers(verdicts),
        methods=(*_methods(source, "credit", "method"), *_methods(source, "step_labels", "labeller")),
        stages=tuple(_stages(source)),
        example=_example(source, leaves, verdicts),
    )


def _origins(leaves: pl.DataFrame) -> tuple[OriginFacts, ...]:
    found = leaves.group_by("origin").agg(
        leaves=pl.len(),
        judged=pl.col("reward").count(),
        truncated=(pl.col("finish") == "length").sum(),
        pass_rate=pl.col("reward").mean(),
    )
    rows = sorted(found.iter_rows(named=True), key=lambda row: ORIGINS.index(row["origin"]))
    return tuple(OriginFacts(**row) for row in rows)


def _repeats(source: Source, nodes: pl.DataFrame) -> RepeatFacts:
    pairs = source.read("pairs", columns=["prompt_ids", "chosen_ids", "rejected_ids"])
    answers = nodes.filter(pl.col("sampled") & pl.col("finish").is_not_null())["request"]
    copies = nodes.filter(pl.col("copied_from").is_not_null())
    return RepeatFacts(
        pairs=pairs.height,
        distinct_pairs=pairs.unique().height,
        leaves=len(answers),
        answers=answers.n_unique(),
        copies=copies.height,
        copied_tokens=int(copies["tokens"].sum()),
    )


def _requests(source: Source) -> tuple[RequestFacts, ...]:
    key = ["stage", "engine", "policy", "sampling"]
    columns = [*key, "prompt_tokens", "decoded_tokens", "error"]
    found = source.read("requests", columns=columns).group_by(key)
    counted = found.agg(
        requests=pl.len(),
        failed=pl.col("error").count(),
        prompt_tokens=pl.col("prompt_tokens").cast(pl.Int64).sum(),
        decoded_tokens=pl.col("decoded_tokens").cast(pl.Int64).sum(),
    )
    return tuple(RequestFacts(**row) for row in counted.sort(key).iter_rows(named=True))


def _verifiers(verdicts: pl.DataFrame) -> tuple[VerifierFacts, ...]:
    found = verdicts.group_by(name=pl.col("verifier"), version=pl.col("version"))
    counted = found.agg(verdicts=pl.len(), failed=pl.col("reward").null_count())
    return tuple(VerifierFacts(**row) for row in counted.sort("name", "version").iter_rows(named=True))


def _methods(source: Source, table: str, column: str) -> Iterable[MethodFacts]:
    known = {name: method.function for name, method in METHODS.items()} if table == "credit" else LABELLERS
    for name in source.read(table, columns=[column])[column].unique().sort():
        paragraphs = [" ".join(part.split()) for part in (inspect.getdoc(known.get(name)) or "").split("\n\n")]
        cited = next((part for part in paragraphs if part.startswith("Source: ")), "").removeprefix("Source: ")
        yield MethodFacts(name, table, paragraphs[0] or "not stated", cited or "not stated")


def _stages(source: Source) -> Iterable[StageFacts]:
    rows: dict[str, dict[str, int]] = {}
    inputs: dict[str, dict[str, list[str]]] = {}
    for table in TABLES:
        for place in source.places(table):
            counts = rows.setdefault(place.stage, {})
            counts[table] = counts.get(table, 0) + source.store.rows(table, place)
            for name, value in source.store.entry(table, place).inputs.items():
                inputs.setdefault(place.stage, {}).setdefault(name, []).append(value)
    for stage, counts in rows.items():
        yield StageFacts(stage, counts, {name: _shown(values) for name, values in inputs.get(stage, {}).items()})


def _shown(values: list[str]) -> str:
    """An input as print: its one value, or a digest where shards differ or it is long. Never a path of this machine."""
    distinct = sorted(set(values))
    try:
        config = json.loads(distinct[0]) if len(distinct) == 1 else None
    except ValueError:
        config = None
    if isinstance(config, dict):
        return json.dumps(_without_paths(config), sort_keys=True) if config else ""
    if len(distinct) == 1 and len(distinct[0]) <= _LONGEST_INPUT:
        return _without_paths(distinct[0])
    return hashlib.sha256("\n".join(distinct).encode()).hexdigest()[:16]


def _without_paths(value: Any) -> Any:
    """The same with the last part alone of every absolute path."""
    if isinstance(value, dict):
        return {name: _without_paths(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_paths(inner) for inner in value]
    for kind in (PurePosixPath, PureWindowsPath):
        if isinstance(value, str) and kind(value).is_absolute():
            return kind(value).name
    return value


def _example(source: Source, leaves: pl.DataFrame, verdicts: pl.DataFrame) -> Example | None:
    """The first answer of the first group with right and wrong ones; of any group where there is none such."""
    if leaves.is_empty():
        return None
    reward, group = pl.col("reward"), ["tree", "origin"]
    ranked = leaves.with_columns(
        plain=pl.col("origin") == "sample",
        mixed=(reward.min().over(group) < reward.max().over(group)).fill_null(False),
        judged=reward.is_not_null(),
    ).sort("plain", "mixed", "judged", *_LEAF, descending=[True, True, True, False, False])
    leaf = ranked.row(0, named=True)
    here = pl.col("tree") == leaf["tree"]
    columns = ["task", *_LEAF, "parent", "context", "origin", "text", "token_ids"]
    rows = {row["node"]: row for row in source.read("nodes", columns=columns).filter(here).iter_rows(named=True)}
    path = [rows[leaf["node"]]]
    while path[-1]["node"] != path[0]["context"]:
        path.append(rows[path[-1]["parent"]])
    notes = _notes(source, here)
    tasks = source.read("tasks", columns=["task", "question", "answer"])
    task = tasks.filter(pl.col("task") == path[0]["task"]).row(0, named=True)
    parsed = verdicts.filter(here & (pl.col("node") == leaf["node"]))["parsed_answer"].drop_nulls()
    return Example(
        task=task["task"],
        tree=leaf["tree"],
        question=task["question"],
        answer=task["answer"],
        steps=tuple(
            ExampleStep(
                row["node"], row["origin"], row["text"], tuple(row["token_ids"]), tuple(notes.get(row["node"], ()))
            )
            for row in reversed(path)
        ),
        reward=leaf["reward"],
        parsed_answer=parsed[0] if len(parsed) else None,
    )


def _notes(source: Source, here: pl.Expr) -> dict[int, list[str]]:
    """What credit methods and labellers say of the nodes of one tree."""
    notes: dict[int, list[str]] = {}
    for node, method, advantage in (
        source.read("credit", columns=[*_LEAF, "method", "advantage"]).filter(here).drop("tree").iter_rows()
    ):
        notes.setdefault(node, []).append(f"{method} {'unknown' if advantage is None else format(advantage, '+.3f')}")
    for node, labeller, soft in (
        source.read("step_labels", columns=[*_LEAF, "labeller", "soft"]).filter(here).drop("tree").iter_rows()
    ):
        notes.setdefault(node, []).append(f"{labeller} {'unknown' if soft is None else format(soft, '.3f')}")
    return notes
