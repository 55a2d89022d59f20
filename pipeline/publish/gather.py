"""Finds out what a card says of a release: counts, methods, one example. Reads the release's files, words nothing.

A pass over the nodes, batch by batch; what is kept of each answer is a number of 8 bytes.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.credit import METHODS
from pipeline.labels import LABELLERS
from pipeline.publish.facts import (
    AccountFacts,
    ConfigFacts,
    Example,
    ExampleStep,
    MethodFacts,
    OriginFacts,
    ReleaseFacts,
    RepeatFacts,
    VerifierFacts,
)
from pipeline.publish.folder import Folder
from pipeline.store.batches import beside
from schemas.words import ORIGINS, SPLITS

_LEAF = ["tree", "node"]
_NODES = ("task", "tree", "node", "kind", "origin", "finish", "sampled", "request", "copied_from", "token_count")
_VERDICTS = ("task", "tree", "node", "verifier", "version", "reward", "parsed_answer")


def gather_facts(
    folder: Folder,
    configs: Iterable[ConfigFacts],
    account: AccountFacts,
    *,
    suite: str,
    round: str,
    licence: str = "",
    language: str = "",
) -> ReleaseFacts:
    """All that the card of a release says.

    Args:
        configs: what its files hold.
        account: what the store knew beside them.
    """
    configs = tuple(configs)
    sizes = {config.name: {split.name: split.rows for split in config.splits} for config in configs}
    tally = _tally(folder)
    return ReleaseFacts(
        suite=suite,
        round=round,
        licence=licence,
        language=language,
        configs=configs,
        tasks={split: sizes.get("tasks", {}).get(split, 0) for split in SPLITS},
        trees=tally.trees,
        nodes=tally.nodes,
        tokens=tally.tokens,
        sampled_tokens=tally.sampled_tokens,
        origins=tally.origins(),
        repeats=tally.repeats(folder),
        verifiers=_verifiers(folder),
        methods=(*_methods(folder, "credit", "method"), *_methods(folder, "step_labels", "labeller")),
        account=account,
        example=_example(folder, tally.best),
    )


@dataclass(slots=True)
class _Tally:
    """Counts of the nodes seen so far. best: rank and leaf of the answer to be shown."""

    trees: int = 0
    nodes: int = 0
    tokens: int = 0
    sampled_tokens: int = 0
    leaves: Counter[str] = field(default_factory=Counter)
    judged: Counter[str] = field(default_factory=Counter)
    truncated: Counter[str] = field(default_factory=Counter)
    reward: Counter[str] = field(default_factory=Counter)
    sampled_leaves: int = 0
    answers: list[np.ndarray] = field(default_factory=list)
    copies: int = 0
    copied_tokens: int = 0
    best: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    def add(self, nodes: pl.DataFrame, verdicts: pl.DataFrame) -> None:
        """The next tasks."""
        tokens, sampled = nodes["token_count"].cast(pl.Int64), nodes["sampled"]
        self.trees += nodes["tree"].n_unique()
        self.nodes += nodes.height
        self.tokens += tokens.sum()
        self.sampled_tokens += tokens.filter(sampled).sum()
        answers = nodes.filter(pl.col("sampled") & pl.col("finish").is_not_null())["request"]
        self.sampled_leaves += len(answers)
        self.answers.append(answers.hash().unique().to_numpy())
        copied = nodes["copied_from"].is_not_null()
        self.copies += int(copied.sum())
        self.copied_tokens += tokens.filter(copied).sum()
        ends = nodes.filter((pl.col("kind") == "step") & pl.col("finish").is_not_null())
        rewards = verdicts.group_by(_LEAF).agg(pl.col("reward").mean())
        leaves = ends.join(rewards, on=_LEAF, how="left", maintain_order="left")
        counted = leaves.group_by("origin").agg(
            leaves=pl.len(),
            judged=pl.col("reward").count(),
            truncated=(pl.col("finish") == "length").sum(),
            reward=pl.col("reward").cast(pl.Float64).sum(),
        )
        for origin, *counts in counted.iter_rows():
            for counter, count in zip((self.leaves, self.judged, self.truncated, self.reward), counts, strict=True):
                counter[origin] += count
        self._choose(leaves)

    def _choose(self, leaves: pl.DataFrame) -> None:
        """The first answer of the first group with right and wrong ones; of any group where there is none such."""
        if leaves.is_empty():
            return
        reward, group = pl.col("reward"), ["tree", "origin"]
        ranked = leaves.with_columns(
            other=pl.col("origin") != "sample",
            alike=(reward.min().over(group) >= reward.max().over(group)).fill_null(True),
            unjudged=reward.is_null(),
        ).sort(key := ["other", "alike", "unjudged", *_LEAF])
        leaf = ranked.row(0, named=True)
        rank = tuple(leaf[name] for name in key)
        if self.best is None or rank < self.best[0]:
            self.best = rank, leaf

    def origins(self) -> tuple[OriginFacts, ...]:
        return tuple(
            OriginFacts(
                origin,
                self.leaves[origin],
                self.judged[origin],
                self.truncated[origin],
                self.reward[origin] / self.judged[origin] if self.judged[origin] else None,
            )
            for origin in sorted(self.leaves, key=ORIGINS.index)
        )

    def repeats(self, folder: Folder) -> RepeatFacts:
        pairs = [
            pl.from_arrow(some).hash_rows().to_numpy()
            for some in _batches(folder, "pairs", ("prompt_ids", "chosen_ids", "rejected_ids"))
        ]
        return RepeatFacts(
            pairs=sum(map(len, pairs)),
            distinct_pairs=_distinct(pairs),
            leaves=self.sampled_leaves,
            answers=_distinct(self.answers),
            copies=self.copies,
            copied_tokens=self.copied_tokens,
        )


def _distinct(hashes: list[np.ndarray]) -> int:
    return len(np.unique(np.concatenate(hashes))) if hashes else 0


def _batches(folder: Folder, config: str, columns: Iterable[str]) -> Iterator[pa.Table]:
    for split in folder.splits(config):
        yield from folder.batches(config, split, columns=tuple(columns))


def _tally(folder: Folder) -> _Tally:
    tally = _Tally()
    for split in folder.splits("nodes"):
        nodes = folder.batches("nodes", split, columns=_NODES)
        judged = folder.batches("verdicts", split, columns=_VERDICTS)
        for batch, (verdicts,) in beside(nodes, judged):
            empty = pl.DataFrame(schema={"tree": pl.String, "node": pl.Int32, "reward": pl.Float32})
            tally.add(pl.from_arrow(batch), empty if verdicts is None else pl.from_arrow(verdicts))
    return tally


def _verifiers(folder: Folder) -> tuple[VerifierFacts, ...]:
    found: Counter[tuple[str, str]] = Counter()
    failed: Counter[tuple[str, str]] = Counter()
    for some in _batches(folder, "verdicts", ("verifier", "version", "reward")):
        counted = (
            pl.from_arrow(some).group_by("verifier", "version").agg(pl.len(), failed=pl.col("reward").null_count())
        )
        for name, version, count, lost in counted.iter_rows():
            found[name, version] += count
            failed[name, version] += lost
    return tuple(VerifierFacts(*key, found[key], failed[key]) for key in sorted(found))


def _methods(folder: Folder, config: str, column: str) -> Iterator[MethodFacts]:
    known = {name: method.function for name, method in METHODS.items()} if config == "credit" else LABELLERS
    names = {name for some in _batches(folder, config, (column,)) for name in some[column].unique().to_pylist()}
    for name in sorted(names):
        paragraphs = [" ".join(part.split()) for part in (inspect.getdoc(known.get(name)) or "").split("\n\n")]
        cited = next((part for part in paragraphs if part.startswith("Source: ")), "").removeprefix("Source: ")
        yield MethodFacts(name, config, paragraphs[0] or "not stated", cited or "not stated")


def _example(folder: Folder, best: tuple[tuple[Any, ...], dict[str, Any]] | None) -> Example | None:
    if best is None:
        return None
    leaf = best[1]
    of, here = {"task": leaf["task"]}, pl.col("tree") == leaf["tree"]
    columns = ["task", *_LEAF, "parent", "context", "origin", "text", "token_ids"]
    nodes = folder.read("nodes", columns=columns, **of).filter(here)
    rows = {row["node"]: row for row in nodes.iter_rows(named=True)}
    path = [rows[leaf["node"]]]
    while path[-1]["node"] != path[0]["context"]:
        path.append(rows[path[-1]["parent"]])
    notes = _notes(folder, leaf["task"], here)
    task = folder.read("tasks", columns=["task", "question", "answer"], **of).row(0, named=True)
    verdicts = folder.read("verdicts", columns=["task", *_LEAF, "parsed_answer"], **of)
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


def _notes(folder: Folder, task: str, here: pl.Expr) -> dict[int, list[str]]:
    """What credit methods and labellers say of the nodes of one tree."""
    notes: dict[int, list[str]] = {}
    for config, by, value, form in (
        ("credit", "method", "advantage", "+.3f"),
        ("step_labels", "labeller", "soft", ".3f"),
    ):
        found = folder.read(config, columns=["task", *_LEAF, by, value], task=task).filter(here)
        for node, name, figure in found.select("node", by, value).iter_rows():
            notes.setdefault(node, []).append(f"{name} {'unknown' if figure is None else format(figure, form)}")
    return notes
