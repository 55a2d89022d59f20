"""Stage: plays every training task of a suite in its environment. These are the suite's rollouts: what reads those of
other suites reads them.

A task played by one seat is one tree, an episode being a path from the task's first prompt; a game or dialogue of
several is a tree a seat, which share `episode`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl

from pipeline.environments.driver import Driver
from pipeline.environments.episode import Episode, Rules, Story
from pipeline.environments.protocol import Opened
from pipeline.environments.tools import CLOSED_BOOK
from pipeline.environments.trees import told, verdict_rows
from pipeline.errors import BadConfig, check_counts
from pipeline.generation.budget.spending import Capped, Caps
from pipeline.generation.budget.turn_control import Limits, TurnParams, turn_limits
from pipeline.report import Progress, Report
from pipeline.stages.earlier import ROLLOUTS
from pipeline.stages.growing import Growth, held_shards
from pipeline.stages.judging import pass_rate
from pipeline.stages.playing import POLICY, Players, environment_of, rules_of, setting_of
from pipeline.stages.work import Shards, Work

VERSION = "1"
TABLES = ("nodes", "verdicts", "requests")
_CALLS = pl.List(pl.Struct({"error": pl.String}))


@dataclass(frozen=True, slots=True)
class EpisodeConfig(Capped):
    """group: episodes a task. temperature: of a policy's turns. top_p: likewise. player: policy, or one that needs no
    model, whose episodes show a policy the format, random (any move that can be made) or recite (the calls that the
    task's info records). opponent: who has all seats of a game but one; empty: the same. most_turns: of a seat, where
    there is no limit. loops: times that a seat may do the same in the same state. invalid: actions in a row that cannot
    be taken. turns: word of turn_control.MODES. baseline: round whose episodes say how many turns are needed.
    percentile: of those, the limit. extended_percentile: the limit once more is granted, with `dynamic`; 0: no more is.
    closed_book: the tools are neither told of nor there, and the first turn is the answer; for a round of its own.
    """

    group: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    player: str = POLICY
    opponent: str = ""
    most_turns: int = 20
    loops: int = 3
    invalid: int = 3
    turns: str = "none"
    baseline: str = ""
    percentile: float = 75.0
    extended_percentile: float = 0.0
    closed_book: bool = False


@dataclass(frozen=True, slots=True)
class _Played:
    """What a shard is made from beside its tasks and its policy. environment: its name, version and options."""

    environment: str
    group: int
    players: Players
    rules: Rules


@dataclass(slots=True, eq=False)
class _Open:
    """A shard that is being made. left: episodes that have not ended."""

    growth: Growth
    held: ExitStack
    left: int
    stories: dict[str, Story] = field(default_factory=dict)


def write_episodes(work: Work, config: EpisodeConfig = EpisodeConfig()) -> Report:
    """Play every training task of the suite.

    Raises:
        BadConfig: the suite has no environment, or none that has tools to be left without, or a rule or the
            environment cannot be.
    """
    check_counts(config, group=1, most_turns=1, loops=1, invalid=1)
    if work.suite.environment is None:
        raise BadConfig(
            f"suite {work.suite.name} has no environment",
            remedy=f"give it an [environment], or run `branchpoint rollouts --suite {work.suite.name}`",
        )
    if config.closed_book and work.suite.environment.name != "tools":
        raise BadConfig(f"suite {work.suite.name} has no tools to be left without", remedy="leave --closed-book out")
    opened = CLOSED_BOOK if config.closed_book else work.suite.environment.open()
    played = _Played(
        environment_of(work, opened),
        config.group,
        Players(config.player, config.opponent or config.player),
        rules_of(
            work,
            limits=_limits(work, config),
            most_turns=config.most_turns,
            loops=config.loops,
            invalid=config.invalid,
            temperature=config.temperature,
            top_p=config.top_p,
        ),
    )
    shards = Shards(work, ROLLOUTS, TABLES)
    stage = _Stage(shards, opened, played)
    return stage.make(config.caps)


@dataclass(slots=True, eq=False)
class _Stage:
    shards: Shards
    opened: Opened
    played: _Played
    _open: dict[str, _Open] = field(default_factory=dict)
    _total: int = 0

    def make(self, caps: Caps) -> Report:
        """Make every stale shard; those that a cap leaves unfinished are not written."""
        work = self.shards.work
        tasks = work.shards()
        done = 0
        with work.sampler("episodes", prices=caps.prices) as sampler:
            driver = Driver(sampler, on_request=self._on_request, caps=caps)
            try:
                for episode in driver.run(self._episodes(tasks, sampler)):
                    episode.environment.close()
                    one = self._open[episode.seats[0].story.task]
                    done, one.left = done + 1, one.left - 1
                    work.on_progress(
                        Progress(
                            "episodes", "episodes", done, self._total, sampler.spent.decoded, 0, self.shards.seconds
                        )
                    )
                    if not one.left:
                        self._close(one)
            finally:
                for one in self._open.values():
                    one.held.close()
        report = self.shards.finish(**self._numbers(), cost=sampler.cost)
        report.notes = (*report.notes, *self._failures())
        if driver.stopped:
            again = "what was asked is in the ledger; the same command without the cap goes on from there"
            report.notes = (*report.notes, f"{driver.stopped}: {again}")
        return report

    def _episodes(self, tasks: dict[str, pl.DataFrame], sampler) -> Iterator[Episode]:
        work, played, setting = self.shards.work, self.played, None
        for growth, held in held_shards(self.shards, tasks, sampler, version=VERSION, config=played):
            one = _Open(growth, held, len(growth.tasks) * played.group)
            self._open |= dict.fromkeys(growth.tasks, one)
            self._total = self.shards.to_make(tasks) * played.group
            setting = setting or setting_of(work, self.opened, played.players, played.rules)
            for row in growth.tasks.values():
                for number in range(played.group):
                    yield setting.episode(row, number, one.stories)
        self._total = self.shards.to_make(tasks) * played.group

    def _close(self, one: _Open) -> None:
        laid = [(story, *told(story)) for story in one.stories.values() if story.draft is not None or story.endings]
        growth = one.growth
        growth.trees = {tree.tree: tree for _, tree, _ in laid}
        verifier = {row["task"]: row["verifier"] for row in growth.tasks.values()}
        with one.held:
            growth.write(verdict_rows([(story, nodes) for story, _, nodes in laid], verifier=verifier))
            self.shards.report.fresh += 1
        for task in growth.tasks:
            del self._open[task]

    def _on_request(self, episode: Episode, request) -> None:
        task = episode.seats[0].story.task
        self._open[task].growth.grower.asked[request.key] = task

    def _failures(self) -> list[str]:
        """What most of the failed episodes failed of; nothing where none did."""
        errors = self.shards.read("verdicts")["error"].drop_nulls()
        found = errors.value_counts(sort=True).head(1).iter_rows()
        return [f"{len(errors)} failed, {count} of them: {error}" for error, count in found]

    def _numbers(self) -> dict[str, float | int | None]:
        nodes, verdicts = self.shards.read("nodes"), self.shards.read("verdicts")
        turns, ends = nodes.filter(kind="step"), nodes.filter(pl.col("finish").is_not_null())
        calls, unread = turns["tool_calls"].drop_nulls(), pl.element().struct.field("error").is_not_null()
        return {
            "pass_rate": pass_rate(verdicts),
            "ends": ends.height,
            "turns": turns.height,
            "tokens": int(nodes["token_count"].sum()),
            "calling_turns": calls.len(),
            "unread_call_turns": calls.str.json_decode(_CALLS).list.eval(unread).list.any().sum(),
            **{f"ended_by_{name}": ends.filter(finish=name).height for name in ("length", "turns", "loop", "invalid")},
            "failed": verdicts["error"].count(),
        }


def _limits(work: Work, config: EpisodeConfig) -> Limits:
    """Limits of turns, from those that a seat took in the episodes of another round that ended by themselves.

    Raises:
        BadConfig: that round has none.
    """
    params = TurnParams(config.turns, config.percentile, config.extended_percentile or None)
    if config.turns == "none":
        return Limits(None, None)
    baseline = replace(work, round=config.baseline) if config.baseline else None
    if baseline is None:
        raise BadConfig(f"turns {config.turns} need a baseline", remedy="give the round of episodes without limits")
    nodes = work.store.read("nodes", baseline.places("nodes", stage=ROLLOUTS), columns=["depth", "finish"])
    depths = nodes.filter(finish="stop")["depth"].to_numpy()
    return turn_limits((depths + 1) // 2 if len(depths) else np.empty(0, np.int64), params)
