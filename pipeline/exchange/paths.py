"""Paths of a stored forest, as exporters take them: the nodes, and all that is said of them. Holds a batch of tasks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import msgspec
import polars as pl
import pyarrow as pa

from pipeline.exchange.conversation import role_of, text_of
from pipeline.exchange.document import OWN, REFERENCE, SOURCE, TEMPLATE, as_json
from pipeline.exchange.references import node_reference, root_reference
from pipeline.store.batches import beside
from pipeline.store.store import Store

Line = dict[str, Any]
"""A line of an exported file, as JSON has it."""
TABLES = ("verdicts", "step_labels", "scores", "credit")
"""What is read beside nodes and tasks, by node."""


class Exporter(NamedTuple):
    """How a path is written.

    lines:  of a path's file, or those that a path adds to the one file of the format.
    ending: of a path's file; empty: all go into one .jsonl file.
    """

    lines: Callable[[Path], Iterator[Line]]
    ending: str = ""


class Said(NamedTuple):
    """A message of a path.

    role:  of ROLES. TEMPLATE: none's; a node that only a restored tree has use for.
    text:  of the message.
    calls: tool calls as OpenAI has them.
    call:  id of the tool call that it answers; empty: of several, of none, or not told.
    node:  that it is. None: it stands before the question.
    """

    role: str
    text: str
    calls: list[Line]
    call: str = ""
    node: Line | None = None


@dataclass(eq=False)
class StoredTree:
    """A tree with what is said of its nodes: rows of their tables. said: by node, then by table."""

    task: dict[str, Any]
    tree: str
    round: str
    nodes: dict[int, dict[str, Any]]
    said: dict[int, dict[str, list[dict[str, Any]]]]

    @cached_property
    def speakers(self) -> dict[int, str]:
        """By node, the role of a message that is no answer, and the call that it answers, where a record says so."""
        found = {}
        for node in self.nodes:
            for record in self.records(node):
                found |= {of: said for of, said in zip(record["nodes"], record.get("speakers", ())) if said}
        return found

    def records(self, node: int) -> list[dict[str, Any]]:
        """Where the paths that end at a node were read, and what is left of their records."""
        rows = [row for row in self.said.get(node, {}).get("scores", ()) if row["name"] == SOURCE]
        return [record for row in rows for record in msgspec.json.decode(row["text"])]

    def told_by(self, format: str) -> set[int]:
        """The nodes that the records of a format name."""
        records = (record for node in self.nodes for record in self.records(node) if record["format"] == format)
        return {node for record in records for node in record["nodes"]}

    def ends(self) -> list[int]:
        """Leaves, and inner nodes at which a path that was imported ends."""
        above = {node["parent"] for node in self.nodes.values()}
        return [node for node in self.nodes if node not in above or self.records(node)]


@dataclass(slots=True, eq=False)
class Path:
    """From the root of a tree to a node."""

    tree: StoredTree
    end: int

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """From the root down."""
        found = [self.tree.nodes[self.end]]
        while found[-1]["parent"] is not None:
            found.append(self.tree.nodes[found[-1]["parent"]])
        return found[::-1]

    @property
    def steps(self) -> list[dict[str, Any]]:
        """What was written or sampled, prompts left out."""
        return [node for node in self.nodes if node["kind"] != "prompt"]

    @property
    def question(self) -> str:
        return self.tree.task["question"]

    def messages(self) -> Iterator[Said]:
        """What stands before the question, then every node.

        Where no record says whose a node is, what follows a step that calls tools is their answer. An answer that names
        no call is that of the only one.
        """
        asked: list[Line] = []
        for place, shown in enumerate(msgspec.json.decode(self.tree.task["messages"] or "[]")):
            role, calls = role_of(shown.get("role"), "user"), openai_calls(shown.get("tool_calls"), f"before_{place}")
            yield Said(role, text_of(shown.get("content")), calls, shown.get("tool_call_id") or _only(role, asked))
            asked = calls
        for node in self.nodes:
            calls = openai_calls(_decoded(node["tool_calls"]), str(node["node"]))
            role, _, call = self._speaker(node, asked).partition(" ")
            if role == TEMPLATE or not (node["text"] or calls or role in ("assistant", "tool")):
                yield Said(TEMPLATE, node["text"], [], node=node)
                continue
            yield Said(role_of(role, "user"), node["text"], calls, call or _only(role, asked), node)
            asked = calls

    def _speaker(self, node: Line, asked: list[Line]) -> str:
        if node["kind"] != "prompt":
            return "assistant"
        if node["parent"] is None or node["origin"] == "gap":
            return "user"
        if said := self.tree.speakers.get(node["node"]):
            return said
        if node["text"] == self.question and self.tree.nodes[node["parent"]]["parent"] is None:
            return TEMPLATE  # the question once more, in other tokens
        return "tool" if asked else "user"

    @property
    def tools(self) -> list[dict[str, Any]]:
        """Schemas of the tools offered."""
        return msgspec.json.decode(self.tree.task["tools"] or "[]")

    def records(self, format: str) -> list[dict[str, Any]]:
        """The records of a format that end here, with the texts put back."""
        nodes, found = self.tree.nodes, []
        for record in self.tree.records(self.end):
            if record["format"] == format:
                texts = {step: nodes[node]["text"] for step, node in enumerate(record["nodes"])}
                found.append(put_back(record.get("record") or {}, {-1: self.question, **texts}))
        return found

    def hard_label(self, node: int, prefer: str) -> bool | None:
        """What a labeller says of a step; another one where that says nothing. None: no one does."""
        said = {row["labeller"]: row["hard"] for row in self.tree.said.get(node, {}).get("step_labels", ())}
        return said.get(prefer, next((hard for hard in said.values() if hard is not None), None))

    def references(self, *, without: tuple[str, ...] = ()) -> tuple[Line, list[Line]]:
        """What an import restores the path from: of the whole, and of each node."""
        root = root_reference(self.tree.task, self.tree.round)
        return root, [
            node_reference(node, self.tree.said.get(node["node"], {}), without=without) for node in self.nodes
        ]


def openai_calls(said: Any, of: str) -> list[Line]:
    """Tool calls as OpenAI has them, arguments as text, each with an id; that of a message tells those without apart.

    Those that environments wrote down have a name and arguments alone; a call that names no tool is none. A tree that
    was restored may say anything.
    """
    found = []
    for place, call in enumerate(said if isinstance(said, list) else ()):
        function = call.get("function", call) if isinstance(call, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if isinstance(name, str) and name:
            arguments, own = function.get("arguments") or {}, call.get("id")
            text = arguments if isinstance(arguments, str) else as_json(arguments)
            own = own if isinstance(own, str) and own else f"call_{of}_{place}"
            found.append({"id": own, "type": "function", "function": {"name": name, "arguments": text}})
    return found


def _decoded(calls: str | None) -> Any:
    try:
        return msgspec.json.decode(calls or "[]")
    except (msgspec.MsgspecError, RecursionError):
        return None  # a tree that was restored may say anything here


def _only(role: str, asked: list[Line]) -> str:
    return asked[0]["id"] if role == "tool" and len(asked) == 1 else ""


def put_back(value: Any, texts: Mapping[int, str]) -> Any:
    """A record with the texts of its steps in place of their numbers, and what is its own as it was."""
    if isinstance(value, dict):
        if value.keys() == {REFERENCE}:
            said = value[REFERENCE]
            if isinstance(said, dict) and said.keys() == {OWN}:
                return {REFERENCE: put_back(said[OWN], texts)}
            if type(said) is int and said in texts:
                return texts[said]
        return {name: put_back(inner, texts) for name, inner in value.items()}
    return [put_back(inner, texts) for inner in value] if isinstance(value, list) else value


def stored_trees(store: Store, suite: str, round: str, *, task: str | None = None) -> Iterator[StoredTree]:
    """The trees of a round in the order of their tasks; of one task alone where it is named."""
    tasks = {row["task"]: row for row in store.tasks(suite).iter_rows(named=True) if task in (None, row["task"])}
    places = {table: store.places(table, suite=suite, round=round) for table in ("nodes", *TABLES, "requests")}
    others = [store.batches(table, places[table]) for table in (*TABLES, "requests")]
    for nodes, found in beside(store.batches("nodes", places["nodes"], rows=20_000), *others):
        said = dict(zip((*TABLES, "requests"), map(_frame, found), strict=True))
        by_node = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
        for table in TABLES:
            for row in said[table].iter_rows(named=True):
                by_node[row["tree"]][row["node"]][table].append(row)
        booked: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in said["requests"].iter_rows(named=True):
            booked[row["request"]].append(row)
        for (tree,), rows in pl.from_arrow(nodes).group_by("tree", maintain_order=True):
            if rows["task"][0] not in tasks:
                continue
            known = {row["node"]: row for row in rows.sort("node").iter_rows(named=True)}
            for number, row in known.items():
                if row["request"] in booked:
                    by_node[tree][number]["requests"] = booked[row["request"]]
            yield StoredTree(tasks[rows["task"][0]], tree, round, known, by_node[tree])


def _frame(rows: pa.Table | None) -> pl.DataFrame:
    return pl.DataFrame() if rows is None else pl.from_arrow(rows)
