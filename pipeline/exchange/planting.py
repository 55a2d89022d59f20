"""Merges the documents of a task into one tree by exact prefix, and keeps what they say of its nodes.

Two steps are one where all before them are one and they are of one kind and speaker, with the same text, tool calls and
token ids. What stands is the first in the order of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import groupby
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.exchange import IMPORTED
from pipeline.exchange.answers import Answer, answers_of_rows, ended_answers
from pipeline.exchange.document import SOURCE, Document, Found, Record, Restored, Step, as_json
from pipeline.exchange.restoring import restore
from pipeline.tasks.verifiers import VERSION as VERIFIER_VERSION
from schemas import TABLES
from schemas.base import column_types

NOT_TOLD = "not told"
"""Policy of what was sampled where the source names no model."""
UNKNOWN_IDS = b""
"""Token ids of a node of which no more than the text is known: the table of nodes has no null there."""
NO_VERIFIER = "none"
"""Verifier of a task without a known answer: nothing can judge it."""


@dataclass(slots=True)
class Rows:
    """Rows of the tables that an import fills, column by column.

    round:  of the trees.
    book:   whether answers are booked as requests, so that trees can be grown further.
    asked: the task of each request that restored paths brought, of all the rows of an import.
    documents, steps: that stand, before what they share is merged.
    conflicts: labels and verdicts that disagree with an earlier one of the same step and source, and were left out.
    """

    suite: str
    round: str
    book: bool = False
    licence: str = ""
    asked: dict[str, str] = field(default_factory=dict)
    documents: int = 0
    steps: int = 0
    conflicts: int = 0
    faults: list[tuple[str, int, str]] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    _columns: dict[str, dict[str, list]] = field(default_factory=dict)
    _restored: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def __post_init__(self):
        for table, names in _FILLED.items():
            self._columns[table] = {name: [] for name in names}

    def add(self, task: str, found: Sequence[Found]) -> None:
        """The documents of one task, in the order of the files; where exported paths restore its tree, these alone."""
        paths = [one for one in found if isinstance(one.document, Restored)]
        documents = [one for one in found if isinstance(one.document, Document)]
        if paths and self._restore(task, paths):
            self.faults += [(one.file, one.line, "its task is restored from an export") for one in documents]
        elif documents:
            self._task(task, documents)
            tree = _Tree(self, task, f"{task}@{self.round}", documents[0].document)
            for one in documents:
                tree.plant(one)
                self.steps += len(one.document.steps)
            self.documents += len(documents)
            tree.close()

    def _restore(self, task: str, paths: Sequence[Found]) -> bool:
        """Put exported paths back; whether any stands."""
        found = restore(paths, asked=self.asked)
        self.faults += found.faults
        self.documents += len(found.paths)
        self.steps += sum(len(path.nodes) - 1 for path in found.paths)  # a root is no step
        for table, rows in found.rows.items():
            self._restored.setdefault(table, []).extend(rows)
        for _, nodes in groupby(found.rows["nodes"], key=lambda row: row["tree"]):
            self.answers += answers_of_rows(list(nodes))
        return bool(found.paths)

    def frames(self) -> dict[str, pl.DataFrame]:
        """Frames by table, in the columns of the tables, those without a value null."""
        return {table: self._frame(table) for table in _FILLED}

    def _frame(self, table: str) -> pl.DataFrame:
        types, columns = column_types(TABLES[table]), dict(self._columns[table])
        packed = {name: columns.pop(name) for name in _PACKED if name in columns}
        frame = pl.DataFrame(columns, schema={name: types[name] for name in columns})
        lists = [pl.Series(name, _lists(parts, _PACKED[name]), dtype=types[name]) for name, parts in packed.items()]
        frame = frame.with_columns(lists)
        frame = frame.with_columns(
            **{name: pl.lit(value, dtype=types[name]) for name, value in _ALWAYS.get(table, {}).items()},
            **(_DERIVED if table == "nodes" else {}),
        )
        frame = frame.with_columns(
            pl.lit(None, dtype=types[name]).alias(name) for name in types.keys() - set(frame.columns)
        )
        rows = self._restored.get(table)
        again = pl.DataFrame(rows, schema=types, orient="row") if rows else pl.DataFrame(schema=types)
        return pl.concat([frame.select(list(types)), again])

    def put(self, table: str, **values: Any) -> None:
        """A row of a table that `_FILLED` names, all of its columns."""
        columns = self._columns[table]
        for name, value in values.items():
            columns[name].append(value)

    def _task(self, task: str, found: Sequence[Found]) -> None:
        first = found[0]
        answer = next((one.document.answer for one in found if one.document.answer), None)
        licence = first.document.licence or self.licence or None
        source = {"file": first.file, "line": first.line, "format": first.format, "licence": licence}
        told = {} if first.document.info is None else {"told": msgspec.Raw(first.document.info.encode())}
        self.put(
            "tasks",
            task=task,
            suite=self.suite,
            band=first.format,
            question=first.document.question,
            messages=first.document.messages,
            tools=first.document.tools,
            answer=answer or "",
            reference_solution=next((one.document.solution for one in found if one.document.solution), None),
            verifier="math" if answer else NO_VERIFIER,
            info=as_json({SOURCE: source, **told}),
        )


@dataclass(slots=True)
class _Tree:
    """One tree while it is planted. lengths: by node, tokens from its context down to it."""

    rows: Rows
    task: str
    tree: str
    first: Document
    known: dict[tuple, int] = field(default_factory=dict)
    at: int = 0
    labels_at: int = 0
    count: int = 0
    lengths: list[int] = field(default_factory=list)
    labelled: dict[tuple, tuple] = field(default_factory=dict)
    judged: dict[tuple, float] = field(default_factory=dict)
    records: dict[int, list[Record]] = field(default_factory=dict)

    def __post_init__(self):
        first = self.first
        self.at = len(self.rows._columns["nodes"]["text"])
        self.labels_at = len(self.rows._columns["step_labels"]["node"])
        origin = "prompt" if first.question or first.messages else "gap"
        root = Step(-1, first.question, "prompt", origin, begins=True, token_ids=first.prompt_ids)
        self._append(root, None, None)

    def plant(self, found: Found) -> None:
        """Hang a document where it first differs from those before it."""
        document, known = found.document, self.known
        nodes, top = [], self._prompt(document)
        for step in document.steps:
            above = nodes[step.parent] if step.parent >= 0 else top
            key = (above, step.text, step.kind, step.speaker, step.tool_calls, step.token_ids)
            node = known.get(key)
            if node is None:
                node = known[key] = self._append(step, above, document.model)
            elif step.finish is not None:
                finish = self.rows._columns["nodes"]["finish"]
                finish[self.at + node] = finish[self.at + node] or step.finish
            nodes.append(node)
        leaf = nodes[document.leaf] if document.leaf >= 0 else top
        record = msgspec.Raw(document.record.encode()) if document.record else msgspec.UNSET
        licence = document.licence or self.rows.licence or None
        speakers = [step.speaker for step in document.steps]
        said = Record(found.file, found.line, found.format, nodes, licence, speakers if any(speakers) else [], record)
        self.records.setdefault(leaf, []).append(said)
        if document.labels:
            self._label(document, nodes)
        for said in document.judgements:
            self._judge(nodes[said.step] if said.step >= 0 else top, said)

    def close(self) -> None:
        """Write down where each path was read, the answers that ended, and what is the same in all of a tree's rows."""
        nodes, labels = self.rows._columns["nodes"], self.rows._columns["step_labels"]
        for columns, count in ((nodes, self.count), (labels, len(labels["node"]) - self.labels_at)):
            columns["task"] += [self.task] * count
            columns["tree"] += [self.tree] * count
        nodes["node"] += range(self.count)
        nodes["sampled"] += [logprobs is not None for logprobs in nodes["logprobs"][self.at :]]
        self.rows.answers += ended_answers(nodes, self.at)
        for node, records in self.records.items():
            self.rows.put("scores", task=self.task, tree=self.tree, node=node, text=as_json(records))

    def _prompt(self, document: Document) -> int:
        """The prompt's node; one of its own below the root where the same text was other tokens."""
        if document.prompt_ids == self.first.prompt_ids:
            return 0
        key = (0, "", "prompt", "", None, document.prompt_ids)
        if key not in self.known:
            prompt = Step(-1, document.question, "prompt", "prompt", begins=True, token_ids=document.prompt_ids)
            self.known[key] = self._append(prompt, 0, None)
        return self.known[key]

    def _append(self, step: Step, above: int | None, model: str | None) -> int:
        columns, node, at = self.rows._columns["nodes"], self.count, self.at
        self.count += 1
        written = step.kind != "prompt"
        sampled = written and step.logprobs is not None
        request = None
        if sampled or (self.rows.book and written and step.token_ids is not None):
            request = self._request(step, node, above, sampled=sampled)
        known = 0 if step.begins or above is None else self.lengths[above]
        self.lengths.append(known + len(step.token_ids or b"") // 4)
        columns["parent"].append(above)
        columns["context"].append(node if step.begins or above is None else columns["context"][at + above])
        columns["depth"].append(0 if above is None else columns["depth"][at + above] + 1)
        turn = 0 if above is None else columns["turn"][at + above]
        if step.kind == "prompt" and above is not None and columns["kind"][at + above] != "prompt":
            turn += 1
        columns["turn"].append(turn)
        columns["kind"].append(step.kind)
        columns["origin"].append(step.origin)
        columns["token_ids"].append(UNKNOWN_IDS if step.token_ids is None else step.token_ids)
        columns["logprobs"].append(step.logprobs if sampled else None)
        columns["text"].append(step.text)
        columns["step_reward"].append(step.reward)
        columns["tool_calls"].append(step.tool_calls)
        columns["request"].append(request)
        columns["policy"].append((model or NOT_TOLD) if sampled or (request and model) else None)
        columns["finish"].append(step.finish)
        if request is not None:
            self._book(request, step, above, model or NOT_TOLD)
        return node

    def _request(self, step: Step, node: int, above: int, *, sampled: bool) -> str:
        """The request that a node came of: its parent's, where that is an unended part of the same written answer."""
        columns = self.rows._columns["nodes"]
        goes_on = columns["kind"][self.at + above] != "prompt" and columns["finish"][self.at + above] is None
        if goes_on and not sampled and above == node - 1:
            return columns["request"][self.at + above] or _key(self.tree, node)
        return _key(self.tree, node)

    def _book(self, request: str, step: Step, above: int, policy: str) -> None:
        requests = self.rows._columns["requests"]
        if requests["request"] and requests["request"][-1] == request:
            requests["decoded_tokens"][-1] += len(step.token_ids) // 4
            return
        self.rows.put(
            "requests",
            task=self.task,
            request=request,
            policy=policy,
            prompt_tokens=self.lengths[above],
            decoded_tokens=len(step.token_ids) // 4,
        )

    def _label(self, document: Document, nodes: Sequence[int]) -> None:
        columns = self.rows._columns["step_labels"]
        for label in document.labels:
            key = (nodes[label.step], label.labeller, label.version)
            said = (label.hard, label.soft)
            before = self.labelled.setdefault(key, said)
            if before is not said:
                self.rows.conflicts += before != said
                continue
            for name, value in zip(_LABELS, (*key, *said, label.rationale, label.created), strict=True):
                columns[name].append(value)

    def _judge(self, node: int, said: Any) -> None:
        before = self.judged.setdefault((node, said.verifier), said.reward)
        if before is not said.reward:
            self.rows.conflicts += before != said.reward
            return
        fits = 0 <= said.reward <= 1
        self.rows.put(
            "verdicts",
            task=self.task,
            tree=self.tree,
            node=node,
            verifier=said.verifier,
            reward=said.reward if fits else None,
            components=said.components,
            error=None if fits else f"reward {said.reward} is not from 0 to 1",
        )


_LABELS = ("node", "labeller", "version", "hard", "soft", "rationale", "created")
_NODES = (
    *("task", "tree", "node", "parent", "context", "depth", "turn", "kind", "origin", "sampled", "token_ids"),
    *("logprobs", "text", "step_reward", "tool_calls", "request", "policy", "finish"),
)
_FILLED: dict[str, tuple[str, ...]] = {
    "tasks": (
        *("task", "suite", "band", "question", "messages", "tools", "answer", "reference_solution", "verifier"),
        "info",
    ),
    "nodes": _NODES,
    "verdicts": ("task", "tree", "node", "verifier", "reward", "components", "error"),
    "requests": ("task", "request", "policy", "prompt_tokens", "decoded_tokens"),
    "step_labels": ("task", "tree", *_LABELS),
    "scores": ("task", "tree", "node", "text"),
}
"""By table, the columns whose values differ from row to row."""
_ALWAYS: dict[str, dict[str, Any]] = {
    "tasks": {"split": "train"},
    "nodes": {"agent": "solver"},
    "verdicts": {"version": VERIFIER_VERSION},
    "requests": {"stage": "rollouts", "sample_index": 0, "engine": IMPORTED, "sampling": "{}", "attempts": 1},
    "scores": {"name": SOURCE},
}
_PACKED = {"token_ids": np.int32, "logprobs": np.float32}
_DERIVED = {"token_count": pl.col("token_ids").list.len().cast(pl.Int32), "episode": pl.col("tree")}


def _lists(parts: Sequence[bytes | None], kind: type[np.generic]) -> pa.ListArray:
    """A list an entry, of the numbers packed in it."""
    ends = np.cumsum([0, *(0 if part is None else len(part) // 4 for part in parts)], dtype=np.int32)
    values = np.frombuffer(b"".join(part for part in parts if part is not None), kind)
    return pa.ListArray.from_arrays(ends, values, mask=pa.array([part is None for part in parts], pa.bool_()))


def _key(tree: str, node: int) -> str:
    return blake2b(f"{tree}|{node}".encode(), digest_size=16).hexdigest()
