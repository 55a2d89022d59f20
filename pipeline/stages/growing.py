"""Grows trees of one shard: asks the sampler, cuts the answers into steps, appends them, judges and writes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from pipeline.errors import BadConfig
from pipeline.generation.engine import Request, Sampling
from pipeline.generation.engines import open_tokens
from pipeline.generation.sampler import Sampler
from pipeline.stages.earlier import BEFORE, ROLLOUTS, grown_from
from pipeline.stages.judging import judge, rewards_by_node
from pipeline.stages.work import Shards, Work, request_rows
from pipeline.store.ledger import Entry
from pipeline.trees.grow import Tree, nodes_frame, read_trees, scores_frame
from pipeline.trees.growth import SCORES_OF
from pipeline.trees.segment import Step, cut_steps

if TYPE_CHECKING:
    from pipeline.generation.tokens import Tokens

Tasks = dict[str, dict[str, Any]]
"""Rows of the tasks table by task."""

PLAYED = ("retries", "interventions", "regenerations", "intervene")
"""Stages that grow trees of episodes too."""

Rewards = dict[tuple[str, int], float]
"""Rewards by tree and node."""


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

    def add(self, tree: Tree, parent: int, entry: Entry, *, origin: str, agent: str = "solver") -> int:
        """Append an answer to the task, a node a step. Returns the leaf."""
        separator = self.work.suite.separator
        steps = cut_steps(
            entry.completion.token_ids, separator, closers=self.tokens.closers(separator), decode=self.tokens.decode
        )
        return tree.add_answer(parent, entry, steps, kind="step", origin=origin, agent=agent)

    def add_whole(self, tree: Tree, parent: int, entry: Entry, *, kind: str, origin: str, agent: str) -> int:
        """Append an answer as one node: a reflection, a critique. Returns it."""
        ids = entry.completion.token_ids
        whole = [Step(0, len(ids), self.tokens.decode(ids))]
        return tree.add_answer(parent, entry, whole, kind=kind, origin=origin, agent=agent)

    @property
    def missed(self) -> set[str]:
        """Of all that was asked, what another run may answer."""
        return self.sampler.missed & self.asked.keys()

    def requests(self, stage: str) -> pl.DataFrame:
        """Rows of the requests table for all that was asked."""
        return request_rows(self.sampler.ledger, self.asked, stage=stage, asked_by=self.sampler.asked_by)


@dataclass(slots=True)
class Growth:
    """A shard that a stage must make.

    made_from: its inputs.
    trees:     as earlier stages left them, by task; rollouts begin them.
    rewards:   of plain samples.
    """

    shards: Shards
    shard: str
    made_from: dict[str, str]
    grower: Grower
    tasks: Tasks
    trees: dict[str, Tree]
    rewards: Rewards

    def judge(self) -> pl.DataFrame:
        """Verdicts on the new leaves."""
        return judge(self.trees.values(), self.tasks)

    def write(self, verdicts: pl.DataFrame, **others: pl.DataFrame) -> None:
        """Write what has grown, with its verdicts, its requests and what was said of it."""
        trees = list(self.trees.values())
        self._drop_scores()
        self.shards.write(
            self.shard,
            self.made_from,
            missed=self.grower.missed,
            nodes=nodes_frame(trees),
            verdicts=verdicts,
            requests=self.grower.requests(self.shards.stage),
            **others,
        )
        self.shards.write_scores(self.shard, self.made_from, lambda name: scores_frame(trees, name))

    def _drop_scores(self) -> None:
        """Remove what the stage said of the nodes that it replaces, by names that the new ones do not have."""
        work = self.shards.work
        for name in {name for names in SCORES_OF.values() for name in names}.difference(self.shards.scores):
            place = work.place(name, self.shard)
            entry = work.store.entry("scores", place)
            if entry is not None and self.shards.stage in entry.inputs:
                work.store.drop("scores", place)


def growing_shards(
    shards: Shards, tasks: dict[str, pl.DataFrame], sampler: Sampler, *, version: str, config: object
) -> Iterator[Growth]:
    """The shards that a stage has not yet made from what earlier stages left, to be grown and written one by one.

    Raises:
        BadConfig, BadTable: see `grown_from`.
    """
    for growth, held in held_shards(shards, tasks, sampler, version=version, config=config):
        with held:
            yield growth
            shards.report.fresh += 1


def held_shards(
    shards: Shards, tasks: dict[str, pl.DataFrame], sampler: Sampler, *, version: str, config: object
) -> Iterator[tuple[Growth, ExitStack]]:
    """As `growing_shards`, each with what holds it against other processes, for whoever makes several at a time.

    Raises:
        BadConfig, BadTable: see `grown_from`.
    """
    work, stage = shards.work, shards.stage
    if work.suite.environment is not None and BEFORE[stage] and stage not in PLAYED:
        raise BadConfig(
            f"suite {work.suite.name} is played in an environment, which {stage} does not know",
            remedy="leave the stage out; credit and datasets take the episodes as they are",
        )

    def made_from(shard: str) -> dict[str, str]:
        return grown_from(work, shard, stage, version, config=config, policy=sampler.fingerprint)

    for name, rows, parts, held in shards.claimed(tasks, made_from):
        samples = work.store.read("verdicts", [work.place(ROLLOUTS, name)] if BEFORE[stage] else [])
        growth = Growth(
            shards,
            name,
            parts,
            Grower(work, sampler),
            {row["task"]: row for row in rows.iter_rows(named=True)},
            read_trees(work.store.read("nodes", [work.place(before, name) for before in BEFORE[stage]])),
            rewards_by_node(samples),
        )
        yield growth, held
