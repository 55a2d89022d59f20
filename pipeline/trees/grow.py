"""Appends nodes to a tree: numbering, parents, contexts. Rows in the columns of the nodes table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import numpy as np
import polars as pl

from pipeline.store.ledger import Entry
from pipeline.trees.segment import Step
from schemas import Nodes, Scores
from schemas.base import column_types

_TYPES = column_types(Nodes)


@dataclass(slots=True)
class Tree:
    """One tree being grown. `nodes` holds the rows added now; `known` those of earlier stages, by number in its order.

    scores: what is said of new nodes, `name`, `node` and `value` each.
    first:  number of the first new node.
    """

    task: str
    tree: str
    known: dict[int, dict[str, Any]] = field(default_factory=dict)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)

    @property
    def first(self) -> int:
        return len(self.known)

    def __getitem__(self, node: int) -> dict[str, Any]:
        return self.known[node] if node < self.first else self.nodes[node - self.first]

    def __len__(self) -> int:
        return len(self.known) + len(self.nodes)

    def children(self, node: int) -> list[int]:
        """Nodes that hang on a node, in their order; looks at all nodes after it."""
        after = islice(chain(self.known.values(), self.nodes), node + 1, None)
        return [row["node"] for row in after if row["parent"] == node]

    def last_of(self, node: int) -> int:
        """The leaf of the chain that was added at `node` in one go."""
        while self[node]["finish"] is None:
            node += 1
        return node

    def path(self, node: int) -> list[int]:
        """Nodes from the node's context down to it: the token context."""
        context, path = self[node]["context"], [node]
        while path[-1] != context:
            path.append(self[path[-1]]["parent"])
        return path[::-1]

    def line(self, node: int) -> list[int]:
        """Nodes from the root down to a node, whatever their context."""
        line: list[int] = []
        while node is not None:
            line.append(node)
            node = self[node]["parent"]
        return line[::-1]

    def tokens(self, node: int) -> np.ndarray:
        """Token ids of the path, prompt included: `[T]` int32."""
        return np.concatenate([np.asarray(self[step]["token_ids"], dtype=np.int32) for step in self.path(node)])

    def texts(self, node: int) -> list[str]:
        """Texts of the path's steps, prompt left out."""
        return [self[step]["text"] for step in self.path(node)[1:]]

    def last_turn(self, node: int) -> list[str]:
        """Texts of the path's steps after all that the model was shown, be it the prompt or an observation."""
        steps = [self[step] for step in self.path(node)]
        shown = max((place for place, step in enumerate(steps) if step["kind"] == "prompt"), default=-1)
        return [step["text"] for step in steps[shown + 1 :]]

    def add(self, parent: int | None, **columns: Any) -> int:
        """Append one node; columns not named are null. A prompt node is its own context.

        Returns:
            The new node's number.
        """
        number = len(self)
        above = None if parent is None else self[parent]
        row = dict.fromkeys(_TYPES)
        row.update(
            task=self.task,
            tree=self.tree,
            episode=self.tree,
            node=number,
            parent=parent,
            context=number if columns.get("kind") == "prompt" or above is None else above["context"],
            depth=0 if above is None else above["depth"] + 1,
            turn=0,
            sampled=False,
        )
        row.update(columns)
        row["token_count"] = len(row["token_ids"])
        self.nodes.append(row)
        return number

    def add_prompt(self, parent: int | None, prompt: np.ndarray, *, text: str, agent: str) -> int:
        """Append the tokens of a rendered prompt, at which a new context begins."""
        return self.add(parent, kind="prompt", origin="prompt", agent=agent, token_ids=prompt.tolist(), text=text)

    def add_answer(
        self, parent: int, entry: Entry, steps: Sequence[Step], *, kind: str, origin: str, agent: str = "solver"
    ) -> int:
        """Append an answer of the engine as a chain of steps.

        Returns:
            The leaf. Every token of the answer is in just one of the nodes.
        """
        answer, node = entry.completion, parent
        for step in steps:
            last = step.end == len(answer.token_ids)
            node = self.add(
                node,
                kind=kind,
                origin=origin,
                agent=agent,
                sampled=True,
                token_ids=answer.token_ids[step.start : step.end].tolist(),
                logprobs=answer.logprobs[step.start : step.end].tolist(),
                text=step.text,
                request=answer.key,
                policy=entry.policy,
                finish=answer.finish if last else None,
            )
        return node

    def copy_chain(self, leaf: int, onto: int, *, origin: str, after: int = 0) -> int:
        """Put the sampled steps of a path under another node, in that node's context.

        Args:
            after: steps at its beginning that are left out.

        Returns:
            The new leaf. The copies name their originals, whose log-probabilities they carry.
        """
        node = onto
        for step in self.path(leaf)[1 + after :]:
            source = self[step]
            carried = ("kind", "agent", "token_ids", "logprobs", "text", "finish", "request", "policy")
            node = self.add(node, origin=origin, copied_from=step, **{name: source[name] for name in carried})
        return node


def nodes_frame(trees: Sequence[Tree]) -> pl.DataFrame:
    """The rows added to some trees."""
    rows = [row for tree in trees for row in tree.nodes]
    return pl.DataFrame(rows, schema=_TYPES, orient="row") if rows else pl.DataFrame(schema=_TYPES)


def scores_frame(trees: Sequence[Tree], name: str) -> pl.DataFrame:
    """Rows of the table of scores: what some trees say under a name."""
    said = [{"task": tree.task, "tree": tree.tree, **row} for tree in trees for row in tree.scores]
    rows = pl.DataFrame([row for row in said if row["name"] == name], schema=column_types(Scores), orient="row")
    return rows.sort("task", "tree", "node")


def read_trees(nodes: pl.DataFrame, *, by: str = "task") -> dict[str, Tree]:
    """Trees as stored, ready to be appended to.

    Args:
        by: task, of which each has one tree; tree, where a task may have several, as a game has.
    """
    trees: dict[str, Tree] = {}
    for row in nodes.iter_rows(named=True):
        tree = trees.setdefault(row[by], Tree(row["task"], row["tree"]))
        tree.known[row["node"]] = row
    return trees
