"""What the stages share that make episodes anew: which ones, their way gone again, how they are played and written.

An episode whose way leads elsewhere now is dropped before anything is asked about it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import polars as pl

from pipeline.environments.anew import Anew, Laid, Turn, Way
from pipeline.environments.driver import THREADS, Driver
from pipeline.environments.episode import Episode, Rules
from pipeline.environments.protocol import Opened
from pipeline.environments.tools import CLOSED_BOOK
from pipeline.environments.trees import verdict_rows
from pipeline.errors import BadConfig
from pipeline.generation.budget.turn_control import Limits
from pipeline.generation.engine import Request
from pipeline.stages.earlier import ROLLOUTS, Earlier, rollout_shards
from pipeline.stages.growing import Growth, Rewards, growing_shards
from pipeline.stages.judging import rewards_by_node
from pipeline.stages.playing import Players, Setting, environment_of, rules_of, setting_of
from pipeline.stages.varying import TABLES, C, Which, variant_row, variants_frame
from pipeline.stages.work import Shards, Work
from pipeline.trees.fork import Attempt
from pipeline.trees.grow import Tree

EDITING = ("interventions", "intervene")
"""Stages that write turns anew."""


@dataclass(frozen=True, slots=True)
class _Played:
    """What a shard is made from beside its episodes. environment: its name, version and options."""

    environment: str
    config: Any


@dataclass(slots=True, eq=False)
class Replays:
    """The episodes of a shard that are made anew.

    instructions: what a policy is told first.
    laid: what is new in the trees.
    ways: those that were gone again, by tree and end; `close` gives their copies back. lost: why each leads elsewhere
        now; None: it does not.
    """

    growth: Growth
    setting: Setting
    instructions: tuple[str, ...]
    laid: list[Laid] = field(default_factory=list)
    ways: dict[tuple[str, int], Way] = field(default_factory=dict)
    lost: dict[tuple[str, int], str | None] = field(default_factory=dict)

    def chosen(self, case: type[C], *, per_task: int, which: Which) -> list[C]:
        """The first judged episodes of each tree that the policy played itself, or the first of them that failed."""
        found = []
        for tree in self.growth.trees.values():
            ends = []
            for node, row in tree.known.items():
                reward = self.growth.rewards.get((tree.tree, node))
                if row["origin"] != "sample" or reward is None or (reward >= 1 and which == "failures"):
                    continue
                turns = turns_of(tree, node)
                if all(tree[turn]["sampled"] for turn in turns):
                    ends.append(case(tree, Attempt(node, turns, reward)))
            found += ends[:per_task]
        return found

    def question(self, task: dict[str, Any]) -> str:
        """The rules of the environment and the task."""
        return "\n".join(filter(None, [*self.instructions, task["question"]]))

    def go_again(self, cases: Iterable[C]) -> list[C]:
        """Find the way to each turn of episodes; those that lead elsewhere now are dropped.

        Returns:
            The others.
        """
        cases = list(cases)
        fresh = {}
        for case in cases:
            of = case.tree.tree, case.source.leaf
            if of not in self.ways:
                make = partial(self._begun_anew, self.growth.tasks[case.tree.task])
                turns = [Turn(node, case.tree.tokens(node)) for node in case.source.steps]
                self.ways[of] = fresh[of] = Way(make, case.tree, turns)
            case.way = self.ways[of]
        with ThreadPoolExecutor(THREADS, "environment") as threads:
            gone = {of: threads.submit(way.go) for of, way in fresh.items()}
        self.lost |= {of: _lost(fresh[of], one.exception()) for of, one in gone.items()}
        for case in cases:
            case.dropped = self.lost[case.tree.tree, case.source.leaf]
        return [case for case in cases if case.dropped is None]

    def close(self) -> None:
        """Give back the copies of environments along the ways."""
        for way in self.ways.values():
            way.close()

    def _begun_anew(self, task: dict[str, Any]) -> Episode:
        return self.setting.episode(task, 0, {})

    def play(self, episodes: Iterable[Anew]) -> None:
        """Play episodes from their turns on."""
        grower = self.growth.grower

        def on_request(one: Anew, request: Request) -> None:
            grower.asked[request.key] = one.way.tree.task

        for one in Driver(grower.sampler, on_request=on_request).run(iter(episodes)):
            one.episode.environment.close()

    def hang(self, one: Anew, *, origin: str) -> Laid | None:
        """Append what was played anew to its tree; None where there is nothing new."""
        if one.error is not None:
            return None
        known = len(one.way.tree)
        laid = one.hang(origin=origin)
        if laid.turns[-1] >= known:
            self.laid.append(laid)
        return laid

    def verdicts(self) -> pl.DataFrame:
        """On the ends of what is new."""
        verifier = {row["task"]: row["verifier"] for row in self.growth.tasks.values()}
        return verdict_rows([(one.story, one.node_of) for one in self.laid], verifier=verifier)


def write_replayed(
    work: Work,
    stage: str,
    config: Any,
    *,
    version: str,
    rules: dict[str, Any],
    vary: Callable[[Replays], list[C]],
    row: Callable[[C, Rewards], dict[str, Any]],
) -> Shards:
    """Walk over the shards of a suite that is played in an environment, as `write_variants` does over others.

    Args:
        rules: those that are not the ones that the round's episodes were played by.

    Raises:
        BadConfig: see `opened_again`.
    """
    opened = opened_again(work, stage)
    by_shard, shards = rollout_shards(work), Shards(work, stage, TABLES)
    with work.sampler(stage) as sampler:
        for one in dict.fromkeys(opened[name] for name in by_shard):
            tasks = {name: rows for name, rows in by_shard.items() if opened[name] == one}
            played = _Played(environment_of(work, one), config)
            for growth in growing_shards(shards, tasks, sampler, version=version, config=played):
                with closing(replays_of(growth, one, **rules)) as replays:
                    cases = vary(replays)
                verdicts = replays.verdicts()
                fresh = rewards_by_node(verdicts)
                rows = [variant_row(case, row(case, fresh)) for case in cases]
                growth.write(verdicts, variants=variants_frame(rows))
    return shards


def opened_again(work: Work, stage: str) -> dict[str, Opened]:
    """By shard of the round's, what its episodes were played in, for a stage to go back to their turns.

    Raises:
        BadConfig: several take turns in the environment, it does not say that it is replayable, or turns shall be
            written anew where the only one is the answer.
    """
    usual = work.suite.environment.open()
    with closing(usual.make()) as environment:
        seats, replayable = len(environment.seats), environment.replayable
    if seats > 1:
        raise BadConfig(
            f"suite {work.suite.name} has {seats} seats, {stage} can take one",
            remedy="credit and datasets take its episodes as they are",
        )
    if not replayable:
        raise BadConfig(
            f"the environment of suite {work.suite.name} does not say that it is replayable, so {stage} cannot go "
            "back to a turn of an episode",
            remedy="let it say so if equal seeds and actions give equal states; credit takes its episodes as they are",
        )
    shards = [place.shard for place in work.places("nodes", stage=ROLLOUTS)]
    found = {shard: CLOSED_BOOK if _closed_book(work, shard) else usual for shard in shards}
    if stage in EDITING and CLOSED_BOOK in found.values():
        raise BadConfig(
            f"round {work.round} of suite {work.suite.name} was played closed-book: the one turn of an episode is its "
            "answer, which no edit may state",
            remedy="give a --round that was played with tools; retries and regenerations take this one too",
        )
    return found


def replays_of(growth: Growth, opened: Opened, **rules: Any) -> Replays:
    """The episodes of a shard in their setting.

    Args:
        opened: what they were played in. rules: those that are not the ones that they were played by.
    """
    work = growth.shards.work
    setting = setting_of(work, opened, Players(), replace(_rules(work, growth.shard), **rules))
    with closing(opened.make()) as environment:
        return Replays(growth, setting, environment.instructions)


def turns_of(tree: Tree, node: int) -> tuple[int, ...]:
    """The turns of an episode down to a node."""
    return tuple(step for step in tree.line(node) if tree[step]["kind"] == "step")


def _lost(way: Way, error: BaseException | None) -> str | None:
    """Why a way leads elsewhere now; None: it does not."""
    if error is not None:
        return said(f"not replayable: {type(error).__name__}: {error}")
    astray = way.astray()
    return None if astray is None else f"not replayable: turn {astray} was sent other tokens"


def said(error: str) -> str:
    """What is wrong, as a reason that may be stored."""
    return error[:200].encode(errors="replace").decode()


def _played_as(work: Work, shard: str) -> dict[str, Any]:
    """What a shard's episodes say that they were played as."""
    return json.loads(Earlier(work, shard).entry("nodes", ROLLOUTS).inputs.get("config", "{}"))


def _closed_book(work: Work, shard: str) -> bool:
    """Whether a shard's episodes were played without the suite's tools."""
    environment = _played_as(work, shard).get("environment")
    return environment is not None and json.loads(environment)[1] == CLOSED_BOOK.version


def _rules(work: Work, shard: str) -> Rules:
    """The rules that the round's episodes were played by."""
    found = _played_as(work, shard).get("rules", {})
    if "limits" in found:
        found["limits"] = Limits(*found["limits"])
    return replace(rules_of(work), **found)
