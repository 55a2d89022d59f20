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
from pipeline.environments.protocol import Environment
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


@dataclass(frozen=True, slots=True)
class _Played:
    """What a shard is made from beside its episodes. environment: its name, version and options."""

    environment: str
    config: Any


@dataclass(slots=True, eq=False)
class Replays:
    """The episodes of a shard that are made anew.

    environment: any of its kind, for what it says of itself.
    laid: what is new in the trees.
    """

    growth: Growth
    setting: Setting
    environment: Environment
    laid: list[Laid] = field(default_factory=list)

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
        return "\n".join(filter(None, [*self.environment.instructions, task["question"]]))

    def go_again(self, cases: Iterable[C]) -> list[C]:
        """Find the way to each turn of episodes; those that lead elsewhere now are dropped.

        Returns:
            The others.
        """
        cases = list(cases)
        for case in cases:
            make = partial(self._begun_anew, self.growth.tasks[case.tree.task])
            turns = [Turn(node, case.tree.tokens(node)) for node in case.source.steps]
            case.way = Way(make, case.tree, turns)
        with ThreadPoolExecutor(THREADS, "environment") as threads:
            gone = [threads.submit(case.way.go) for case in cases]
        for case, one in zip(cases, gone, strict=True):
            error = one.exception()
            if error is not None:
                case.dropped = said(f"not replayable: {type(error).__name__}: {error}")
            elif (astray := case.way.astray()) is not None:
                case.dropped = f"not replayable: turn {astray} was sent other tokens"
        return [case for case in cases if case.dropped is None]

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
        BadConfig: several take turns in the environment, or it does not say that it is replayable.
    """
    opened = work.suite.environment.open()
    with closing(opened.make()) as environment:
        if len(environment.seats) > 1:
            raise BadConfig(
                f"suite {work.suite.name} has {len(environment.seats)} seats, {stage} know one",
                remedy=f"leave {stage} out; credit and datasets take the episodes as they are",
            )
        if not environment.replayable:
            raise BadConfig(
                f"the environment of suite {work.suite.name} does not say that it is replayable, so {stage} cannot go "
                "back to a turn of an episode",
                remedy=f"leave {stage} out, or let it say so if equal seeds and actions give equal states",
            )
        by_shard, shards = rollout_shards(work), Shards(work, stage, TABLES)
        played = _Played(environment_of(work, opened), config)
        with work.sampler(stage) as sampler:
            for growth in growing_shards(shards, by_shard, sampler, version=version, config=played):
                setting = setting_of(work, opened, Players(), replace(_rules(work, growth.shard), **rules))
                replays = Replays(growth, setting, environment)
                cases = vary(replays)
                for case in cases:
                    case.way.close()
                verdicts = replays.verdicts()
                fresh = rewards_by_node(verdicts)
                rows = [variant_row(case, row(case, fresh)) for case in cases]
                growth.write(verdicts, variants=variants_frame(rows))
    return shards


def turns_of(tree: Tree, node: int) -> tuple[int, ...]:
    """The turns of an episode down to a node."""
    return tuple(step for step in tree.line(node) if tree[step]["kind"] == "step")


def said(error: str) -> str:
    """What is wrong, as a reason that may be stored."""
    return error[:200].encode(errors="replace").decode()


def _rules(work: Work, shard: str) -> Rules:
    """The rules that the round's episodes were played by."""
    found = json.loads(Earlier(work, shard).entry("nodes", ROLLOUTS).inputs["config"]).get("rules", {})
    if "limits" in found:
        found["limits"] = Limits(*found["limits"])
    return replace(rules_of(work), **found)
