"""Why a training row is as it is: its nodes, what was said of them, what asked for them, and the tokens it trains.

Compares on the way: the tokens of the row must be those of the nodes it names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.generation.policies import Policy
from pipeline.lineage.at_hand import AtHand
from pipeline.lineage.datasets import DATASETS, MASKED, Answer, Row, Weights
from pipeline.lineage.rows import Found, Tagged, find_rows, read_task, rows_about
from pipeline.prompts import PromptPack
from pipeline.store.layout import EVERY_ROUND, Place
from pipeline.store.store import Store


class Made(NamedTuple):
    """What a file was made by and from. config: of the stage; inputs: digests and versions, in the file's words."""

    suite: str
    round: str
    stage: str
    shard: str
    version: str | None
    config: dict[str, Any]
    inputs: dict[str, str]


@dataclass(frozen=True, slots=True)
class Said:
    """A row of another table about a node, and what its file was made by."""

    row: Row
    made: Made


@dataclass(frozen=True, slots=True)
class Step:
    """A node of a path: its columns but for tokens and log-probabilities, and what was said of it."""

    node: Row
    verdicts: list[Said]
    labels: list[Said]
    credit: list[Said]


@dataclass(frozen=True, slots=True)
class Trained:
    """The tokens of an answer as they go into training; all lists are as long as `ids`.

    nodes:  node that holds the token; None where no node does.
    pieces: the tokens' texts; None where no tokenizer is at hand.
    """

    ids: list[int]
    weights: Weights
    nodes: list[int | None]
    pieces: list[str] | None


@dataclass(frozen=True, slots=True)
class Traced:
    """One answer of the row. path: from the root to the node. difference: between row and nodes; None: they agree."""

    name: str
    node: int
    path: list[Step]
    tokens: Trained
    difference: str | None


@dataclass(frozen=True, slots=True)
class Varied:
    """A retry or intervention that made nodes of the row. report: the reflection or check that led to it."""

    row: Row
    made: Made
    report: str | None


@dataclass(frozen=True, slots=True)
class Why:
    """All that the store knows of a row.

    row:      its columns but for tokens.
    task:     None where the store has it no more.
    grown:    what the files of its tree's nodes were made from.
    policies: by fingerprint of their engine, the names of those that sampled; None where it is not at hand.
    prompts:  by digest, the names of the packs asked with; None where the pack has changed since.
    """

    dataset: str
    meaning: str
    row: Row
    made: Made
    task: Row | None
    answers: list[Traced]
    variants: list[Varied]
    requests: list[Row]
    grown: list[Made]
    policies: dict[str, str | None]
    prompts: dict[str, str | None]

    @property
    def agrees(self) -> bool:
        """Whether every answer's tokens are those of its nodes."""
        return all(answer.difference is None for answer in self.answers)


def why(store: Store, dataset: str, name: str, *, at_hand: AtHand) -> list[Why]:
    """Walk from the rows of a name to all they came from.

    Raises:
        BadConfig: there is no such table of training rows, or no such row; names the closest.
        BadTable: a file is damaged.
    """
    return [_explain(store, dataset, found, at_hand) for found in find_rows(store, dataset, name)]


@dataclass(frozen=True, slots=True)
class _Tree:
    """What the store holds of the row's tree. said: by table and node."""

    nodes: dict[int, Row]
    said: dict[str, dict[int, list[Said]]]
    made: list[Made]


def _explain(store: Store, dataset: str, found: Found, at_hand: AtHand) -> Why:
    place, row = found
    tree = _read_tree(store, place, row)
    answers = [_trace(row, answer, tree, at_hand) for answer in DATASETS[dataset].answers]
    on_paths = {step.node["node"] for answer in answers for step in answer.path}
    variants = [
        Varied(tagged.row, _made(tagged.place, tagged.inputs), _text(tree.nodes, tagged.row["report_node"]))
        for tagged in rows_about(store, "variants", place, row["task"], tree=row["tree"])
        if tagged.row["first_node"] in on_paths
    ]
    reports = {one.row["report_node"] for one in variants}
    named = [tree.nodes[node] for node in on_paths | reports if node in tree.nodes]
    asked = _distinct(node["request"] for node in named)
    requests = [
        tagged.row
        for tagged in rows_about(store, "requests", place, row["task"], tree=row["tree"])
        if tagged.row["request"] in asked
    ]
    return Why(
        dataset,
        DATASETS[dataset].meaning,
        {name: value for name, value in row.items() if not _is_long(value)},
        _made(place, store.entry(dataset, place).inputs),
        _task(store, place, row["task"]),
        answers,
        variants,
        sorted(requests, key=lambda request: (request["stage"], request["request"])),
        tree.made,
        {policy: _name(at_hand.policy(policy)) for policy in _distinct(node["policy"] for node in named)},
        _prompts(tree, at_hand.pack(place.suite)),
    )


def _distinct(names: Iterable[str | None]) -> list[str]:
    return sorted({name for name in names if name is not None})


def _name(found: Policy | PromptPack | None) -> str | None:
    return found.name if found else None


def _prompts(tree: _Tree, pack: PromptPack | None) -> dict[str, str | None]:
    asked = _distinct(made.inputs.get("prompts") for made in tree.made)
    return {digest: pack.name if pack and pack.digest == digest else None for digest in asked}


def _is_long(value: Any) -> bool:
    """Whether a value is a list of a figure a token."""
    return isinstance(value, list) and (not value or isinstance(value[0], int | float | None))


def _read_tree(store: Store, place: Place, row: Row) -> _Tree:
    of = {"task": row["task"], "tree": row["tree"]}
    nodes = rows_about(store, "nodes", place, **of)
    made = {one.place: _made(one.place, one.inputs) for one in nodes}
    said = {table: _by_node(rows_about(store, table, place, **of)) for table in ("verdicts", "step_labels", "credit")}
    return _Tree({one.row["node"]: one.row for one in nodes}, said, list(made.values()))


def _by_node(rows: Iterable[Tagged]) -> dict[int, list[Said]]:
    found: dict[int, list[Said]] = {}
    for one in rows:
        found.setdefault(one.row["node"], []).append(Said(one.row, _made(one.place, one.inputs)))
    return found


def _made(place: Place, inputs: dict[str, str]) -> Made:
    rest = {name: value for name, value in inputs.items() if name not in ("version", "config")}
    return Made(
        place.suite,
        place.round,
        place.stage,
        place.shard,
        inputs.get("version"),
        json.loads(inputs.get("config", "{}")),
        rest,
    )


def _task(store: Store, place: Place, task: str) -> Row | None:
    at = Place(place.suite, EVERY_ROUND, "tasks", place.shard)
    return next(read_task(store, "tasks", at, task).iter_rows(named=True), None)


def _text(nodes: dict[int, Row], node: int | None) -> str | None:
    return nodes[node]["text"] if node in nodes else None


def _trace(row: Row, answer: Answer, tree: _Tree, at_hand: AtHand) -> Traced:
    ids = [token for column in answer.ids for token in row[column]]
    weights, end = answer.weights(row), row[answer.node]
    path, lost = _up(tree.nodes, end)
    context = _context(tree.nodes, path)
    if len(ids) > sum(len(tree.nodes[node]["token_ids"]) for node in context):
        path, context = _further(tree.nodes, end, path, context, ids)
    owners = [node for node in context for _ in tree.nodes[node]["token_ids"]][: len(ids)]
    owners = [*owners, *([None] * (len(ids) - len(owners)))]
    differs = lost or _difference(tree.nodes, context, ids)
    if differs is None and answer.labels:
        differs = _mislabelled(ids, row[answer.labels], answer.labels)
    steps = [
        Step(
            {name: value for name, value in tree.nodes[node].items() if name not in ("token_ids", "logprobs")},
            *(tree.said[table].get(node, []) for table in ("verdicts", "step_labels", "credit")),
        )
        for node in path
    ]
    return Traced(
        answer.name, end, steps, Trained(ids, weights, owners, at_hand.pieces(_policy(tree, path), ids)), differs
    )


def _policy(tree: _Tree, path: list[int]) -> str | None:
    """The engine whose tokens a path holds: that of its last sampled node, else of its tree."""
    sampled = [tree.nodes[node]["policy"] for node in reversed(path)]
    return next(filter(None, [*sampled, *(made.inputs.get("policy") for made in tree.made)]), None)


def _up(nodes: dict[int, Row], leaf: int) -> tuple[list[int], str | None]:
    """The path from the root to a node, as far as it is there; what is missing of it."""
    path, node = [], leaf
    while node is not None:
        if node not in nodes or node in path:
            return path[::-1], f"node {node} is not in the store" if node not in nodes else f"node {node} is in a ring"
        path.append(node)
        node = nodes[node]["parent"]
    return path[::-1], None


def _context(nodes: dict[int, Row], path: list[int]) -> list[int]:
    """The part of a path that is its token context."""
    start = nodes[path[-1]]["context"] if path else None
    return path[path.index(start) :] if start in path else path


def _further(
    nodes: dict[int, Row], node: int, path: list[int], context: list[int], ids: list[int]
) -> tuple[list[int], list[int]]:
    """The path on below a node, where the row goes on and some leaf below has just its tokens."""
    for leaf, row in nodes.items():
        if row["finish"] is not None and leaf > node:
            longer, lost = _up(nodes, leaf)
            if lost is None and node in longer:
                within = _context(nodes, longer)
                if _difference(nodes, within, ids) is None:
                    return longer, within
    return path, context


def _difference(nodes: dict[int, Row], context: list[int], ids: list[int]) -> str | None:
    """Where the tokens of a row and those of its nodes part; None where they are the same."""
    at = 0
    for node in context:
        for token in nodes[node]["token_ids"]:
            if at == len(ids):
                return f"the row ends at token {at}, where node {node} goes on with {token}"
            if ids[at] != token:
                return f"token {at} is {ids[at]} in the row and {token} in node {node}"
            at += 1
    return None if at == len(ids) else f"the nodes end at token {at}, where the row goes on with {ids[at]}"


def _mislabelled(ids: list[int], labels: list[int], column: str) -> str | None:
    """Where a label is neither the token itself nor masked."""
    for at, (token, label) in enumerate(zip(ids, labels, strict=True)):
        if label not in (MASKED, token):
            return f"token {at} is {token} in the row and {label} in its {column}"
    return None
