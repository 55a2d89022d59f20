"""Grows trees of one shard: asks the sampler, cuts the answers into steps, appends them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pipeline.errors import BadConfig, BadTable
from pipeline.generation.engine import Request, Sampling
from pipeline.generation.engines import open_tokens
from pipeline.generation.sampler import Sampler
from pipeline.stages.work import Work, inputs, request_rows
from pipeline.store.ledger import Entry
from pipeline.tasks.verifiers import VERSION as VERIFIER_VERSION
from pipeline.trees.grow import Tree, read_trees
from pipeline.trees.segment import Step, cut_steps

if TYPE_CHECKING:
    from pipeline.generation.tokens import Tokens

BEFORE: dict[str, tuple[str, ...]] = {
    "rollouts": (),
    "trees": ("rollouts",),
    "retries": ("rollouts", "trees"),
    "interventions": ("rollouts", "trees", "retries"),
}
"""The stages that grow trees, each with those whose nodes it may hang on. Node numbers go on from theirs."""

GENERATING = tuple(BEFORE)


@dataclass(slots=True)
class Grower:
    """A stage's hand on the engine while it works on a shard.

    asked:  every request so far, to the task it was made for.
    tokens: the policy's tokenizer, opened with the first shard that must be made.
    """

    work: Work
    sampler: Sampler
    asked: dict[str, str] = field(default_factory=dict)
    tokens: Tokens = field(init=False)

    def __post_init__(self):
        self.tokens = open_tokens(self.work.policy)

    def request(self, task: str, prompt: np.ndarray, sampling: Sampling, *, sample: int) -> Request:
        """A request made for a task."""
        request = self.sampler.request(prompt, sampling, sample=sample)
        self.asked[request.key] = task
        return request

    def run(self, requests: Iterable[Request]) -> dict[str, Entry]:
        """The answers there are, by key; those that failed are left out."""
        entries = self.sampler.run(requests)
        return {key: entry for key, entry in entries.items() if entry.completion.error is None}

    def add(self, tree: Tree, parent: int, entry: Entry, *, origin: str) -> int:
        """Append a solver's answer, a node a step. Returns the leaf."""
        separator = self.work.suite.separator
        steps = cut_steps(
            entry.completion.token_ids, separator, closers=self.tokens.closers(separator), decode=self.tokens.decode
        )
        return tree.add_answer(parent, entry, steps, kind="step", origin=origin)

    def add_whole(self, tree: Tree, parent: int, entry: Entry, *, kind: str, origin: str, agent: str) -> int:
        """Append an answer as one node: a reflection, a critique. Returns it."""
        ids = entry.completion.token_ids
        whole = [Step(0, len(ids), self.tokens.decode(ids))]
        return tree.add_answer(parent, entry, whole, kind=kind, origin=origin, agent=agent)

    def requests(self, stage: str) -> pl.DataFrame:
        """Rows of the requests table for all that was asked."""
        return request_rows(self.sampler.ledger, self.asked, stage=stage)


def read_shard(work: Work, shard: str, *, stages: Iterable[str]) -> dict[str, Tree]:
    """The trees of a shard as earlier stages left them, by task."""
    return read_trees(work.store.read("nodes", [work.place(stage, shard) for stage in stages]))


def read_verdicts(work: Work, shard: str, *, stages: Iterable[str]) -> pl.DataFrame:
    """The verdicts of a shard from some stages."""
    return work.store.read("verdicts", [work.place(stage, shard) for stage in stages])


def digests(work: Work, shard: str, *, stages: Iterable[str], tables: Iterable[str] = ("nodes", "verdicts")) -> str:
    """Digests of what earlier stages left in a shard, joined. A file that does not say what it was made from passes.

    Raises:
        BadTable: one of them grew on nodes that are no longer in the store; its own would be hung on the wrong ones.
    """
    stages = tuple(stages)
    first = work.store.meta("nodes", work.place(GENERATING[0], shard))
    tasks = work.store.tasks_digest(work.suite.name, shard)
    if first is not None and first["inputs"].get("tasks", tasks) != tasks:
        raise _replaced(work, GENERATING[0], shard, "tasks")
    for stage in stages:
        before = BEFORE.get(stage, GENERATING)
        meta = work.store.meta("nodes" if stage in BEFORE else "verdicts", work.place(stage, shard))
        nodes = _joined(work, shard, before)
        if meta is not None and before and meta["inputs"].get("nodes", nodes) != nodes:
            raise _replaced(work, stage, shard, " or ".join(before))
    return _joined(work, shard, stages, tables)


def refuse_replaced(work: Work, table: str) -> None:
    """Make sure that a table of annotations or training rows was made from what the store now holds.

    Raises:
        BadTable: some of its rows were not.
    """
    tables = ("nodes", "verdicts", "variants") if table in ("pairs", "patches") else ("nodes", "verdicts")
    for place in work.places(table):
        made_from = work.store.meta(table, place)["inputs"]
        nodes = digests(work, place.shard, stages=GENERATING, tables=tables)
        verdicts = digests(work, place.shard, stages=("verdicts",), tables=("verdicts",))
        if (made_from.get("nodes", nodes), made_from.get("verdicts", verdicts)) != (nodes, verdicts):
            raise _replaced(work, place.stage, place.shard, "nodes or verdicts", of=table)


def _replaced(work: Work, stage: str, shard: str, what: str, *, of: str = "") -> BadTable:
    command = {"credit": f"credit --method {stage}", "step_labels": f"step-labels --labeller {stage}"}.get(of, stage)
    return BadTable(
        f"{stage} of {work.suite.name}, round {work.round}, {shard} were made before {what} changed",
        remedy=f"run `branchpoint {command} --suite {work.suite.name} --round {work.round}` again",
    )


def _joined(work: Work, shard: str, stages: Iterable[str], tables: Iterable[str] = ("nodes", "verdicts")) -> str:
    return " ".join(work.store.digest(table, work.place(stage, shard)) for stage in stages for table in tables)


def grown_from(work: Work, shard: str, stage: str, version: str, *, config: object, policy: str) -> dict[str, str]:
    """What a stage that asks the policy makes a shard from.

    Args:
        policy: the engine's fingerprint.

    Raises:
        BadConfig: the round's rollouts are another policy's.
        BadTable: see `digests`.
    """
    rollouts = work.store.meta("nodes", work.place(GENERATING[0], shard)) if BEFORE[stage] else None
    if rollouts is not None and rollouts["inputs"]["policy"] != policy:
        raise BadConfig(
            f"the rollouts of {work.suite.name}, round {work.round}, are not of policy {work.policy_name} as it is now "
            "on this engine",
            remedy="give --policy as it was given to rollouts, or begin another --round",
        )
    return inputs(
        version,
        config=config,
        policy=policy,
        prompts=work.pack.digest,
        reading=f"{work.suite.max_tokens} {work.suite.separator!r}",
        tasks=work.store.tasks_digest(work.suite.name, shard),
        verifier=VERIFIER_VERSION,
        **({"nodes": digests(work, shard, stages=BEFORE[stage])} if BEFORE[stage] else {}),
    )
