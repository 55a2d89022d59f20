"""Stage: plays every training task of a suite in its environment. These are the suite's rollouts: what reads those of
other suites reads them.

A task played by one seat is one tree, an episode being a path from the task's first prompt; a game or dialogue of
several is a tree a seat, which share `episode`. With `treeps_rag` an episode parts before each of its searches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import polars as pl

from pipeline.environments.driver import Driver
from pipeline.environments.episode import Episode, Rules
from pipeline.environments.protocol import Opened
from pipeline.environments.searches import LAST, Searches
from pipeline.environments.story import Story
from pipeline.environments.tools import CLOSED_BOOK
from pipeline.environments.trees import told, verdict_rows
from pipeline.errors import BadConfig, check_counts, check_words
from pipeline.generation.budget.spending import Capped, Caps
from pipeline.generation.budget.turn_control import Limits, TurnParams, turn_limits
from pipeline.report import Progress, Report
from pipeline.stages.earlier import ROLLOUTS
from pipeline.stages.growing import Growth, held_shards
from pipeline.stages.judging import pass_rate
from pipeline.stages.playing import POLICY, Players, environment_of, rules_of, setting_of
from pipeline.stages.work import Shards, Work
from pipeline.tasks.suites import Suite
from pipeline.trees.growth import SCORES_OF
from pipeline.trees.growth.treeps_rag import PRUNED, SearchGrowth

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
    strategy: flat, episodes by themselves; or treeps_rag, a tree of searches a task, which takes the options that
    follow. threshold: overlap of documents (Jaccard, at most 1) at which a search copies a sibling's; treeps_rag needs
    it. candidates: turns drawn from each open one. width: open turns that go on at each level. depth: turns of a path;
    the last must answer.
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
    strategy: Literal["flat", "treeps_rag"] = "flat"
    threshold: float | None = None
    candidates: int = 3
    width: int = 8
    depth: int = 4


_OWN = {
    "flat": (
        *("group", "player", "opponent", "most_turns", "closed_book"),
        *("turns", "baseline", "percentile", "extended_percentile"),
    ),
    "treeps_rag": ("threshold", "candidates", "width", "depth"),
}
"""What only one strategy takes."""
_Playable = Episode | Searches


@dataclass(frozen=True, slots=True)
class _Played:
    """What a shard is made from beside its tasks and its policy.

    environment: its name, version and options. group: episodes a task, or how its one tree grows.
    rules: fields of `Rules`, without a `last` that says nothing: what was written before there was any stays current.
    """

    environment: str
    group: int | SearchGrowth
    players: Players
    rules: dict[str, Any]


@dataclass(slots=True, eq=False)
class _Open:
    """A shard that is being made. left: episodes or trees that have not ended."""

    growth: Growth
    held: ExitStack
    left: int
    stories: dict[str, Story] = field(default_factory=dict)


def write_episodes(work: Work, config: EpisodeConfig = EpisodeConfig()) -> Report:
    """Play every training task of the suite.

    Raises:
        BadConfig: as `opened_for`, or a player or a rule cannot be.
    """
    opened, growth = opened_for(work.suite, config)
    rules = rules_of(
        work,
        limits=_limits(work, config),
        most_turns=growth.depth if growth else config.most_turns,
        last=LAST if growth else "",
        loops=config.loops,
        invalid=config.invalid,
        temperature=config.temperature,
        top_p=config.top_p,
    )
    played = _Played(
        environment_of(work, opened),
        growth or config.group,
        Players(config.player, config.opponent or config.player),
        {name: value for name, value in asdict(rules).items() if name != "last" or value},
    )
    shards = Shards(work, ROLLOUTS, TABLES, SCORES_OF.get(config.strategy, ()))
    return _Stage(shards, opened, played, rules, growth).make(config.caps)


def opened_for(suite: Suite, config: EpisodeConfig) -> tuple[Opened, SearchGrowth | None]:
    """What episodes of a suite are played in, and how the tree of a task grows; None: they are played by themselves.

    Raises:
        BadConfig: the suite has no environment, or none for this; or a number is out of range, or of another strategy.
    """
    if suite.environment is None:
        raise BadConfig(
            f"suite {suite.name} has no environment",
            remedy=f"give it an [environment], or run `branchpoint rollouts --suite {suite.name}`",
        )
    _check_options(config)
    if config.closed_book and suite.environment.name != "tools":
        raise BadConfig(f"suite {suite.name} has no tools to be left without", remedy="leave --closed-book out")
    opened = CLOSED_BOOK if config.closed_book else suite.environment.open()
    if config.strategy != "flat":
        _check_branching(suite, opened)
    check_counts(config, group=1, most_turns=1, loops=1, invalid=1)
    return opened, _growth(config)


@dataclass(slots=True, eq=False)
class _Stage:
    shards: Shards
    opened: Opened
    played: _Played
    rules: Rules
    growth: SearchGrowth | None
    _open: dict[str, _Open] = field(default_factory=dict)
    _total: int = 0

    def make(self, caps: Caps) -> Report:
        """Make every stale shard; those that a cap leaves unfinished are not written."""
        work = self.shards.work
        tasks = work.shards()
        done, what = 0, "trees" if self.growth else "episodes"
        with work.sampler("episodes", prices=caps.prices) as sampler:
            driver = Driver(sampler, on_request=self._on_request, caps=caps)
            try:
                with closing(driver.run(self._episodes(tasks, sampler))) as ended:
                    for episode in ended:
                        one = self._open[episode.seats[0].story.task]
                        done, one.left = done + 1, one.left - 1
                        spent, seconds = sampler.spent.decoded, self.shards.seconds
                        work.on_progress(Progress("episodes", what, done, self._total, spent, 0, seconds))
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

    def _episodes(self, tasks: dict[str, pl.DataFrame], sampler) -> Iterator[_Playable]:
        work, played, setting = self.shards.work, self.played, None
        each = 1 if self.growth else played.group
        for growth, held in held_shards(self.shards, tasks, sampler, version=VERSION, config=played):
            one = _Open(growth, held, len(growth.tasks) * each)
            self._open |= dict.fromkeys(growth.tasks, one)
            self._total = self.shards.to_make(tasks) * each
            setting = setting or setting_of(work, self.opened, played.players, self.rules)
            for row in growth.tasks.values():
                for number in range(each):
                    episode = setting.episode(row, number, one.stories)
                    yield Searches(episode, self.growth, self.opened.make) if self.growth else episode
        self._total = self.shards.to_make(tasks) * each

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

    def _on_request(self, episode: _Playable, request) -> None:
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
        ended_by = ("length", "turns") if self.growth else ("length", "turns", "loop", "invalid")
        return {
            "pass_rate": pass_rate(verdicts),
            "ends": ends.height,
            "turns": turns.height,
            "tokens": int(nodes["token_count"].sum()),
            "calling_turns": calls.len(),
            "unread_call_turns": calls.str.json_decode(_CALLS).list.eval(unread).list.any().sum(),
            **{f"ended_by_{name}": ends.filter(finish=name).height for name in ended_by},
            "failed": verdicts["error"].count(),
            **(self._dropped(nodes, turns) if self.growth else {}),
        }

    def _dropped(self, nodes: pl.DataFrame, turns: pl.DataFrame) -> dict[str, int]:
        """Turns of trees that went no further, as copies or for want of width, and requests that brought no turn."""
        work, requests = self.shards.work, self.shards.read("requests")
        pruned = int(work.store.read("scores", work.places("scores", stage=PRUNED))["value"].sum())
        gone_on = nodes.select("tree", node="parent")
        dropped = turns.filter(pl.col("finish").is_null()).join(gone_on, on=["tree", "node"], how="anti").height
        brought_none = pl.col("error").is_not_null() | (pl.col("decoded_tokens") == 0)
        return {"pruned": pruned, "over_width": dropped - pruned, "lost": requests.filter(brought_none).height}


def _check_options(config: EpisodeConfig) -> None:
    """Refuse a strategy that is none, and what is another's."""
    check_words(config, of="episodes", strategy=tuple(_OWN))
    defaults = EpisodeConfig()
    for strategy, names in _OWN.items():
        given = [name for name in names if getattr(config, name) != getattr(defaults, name)]
        if strategy != config.strategy and given:
            option = f"--{given[0].replace('_', '-')}"
            raise BadConfig(f"strategy {config.strategy} has no {option}", remedy=f"leave it out, it is of {strategy}")


def _check_branching(suite: Suite, opened: Opened) -> None:
    """Refuse an environment in which nobody searches, or which cannot be brought to where an episode parts."""
    if not opened.searches:
        raise BadConfig(
            f"suite {suite.name} has no search, of which treeps_rag grows its trees",
            remedy='give it an [environment] with name = "tools" and tools = ["search"], or leave --strategy out',
        )
    with closing(opened.make()) as environment:
        if not environment.replayable:
            raise BadConfig(
                f"the environment of suite {suite.name} does not say that it is replayable, so no tree grows in it",
                remedy="leave --strategy out, or let it say so if equal seeds and actions give equal states",
            )


def _growth(config: EpisodeConfig) -> SearchGrowth | None:
    if config.strategy == "flat":
        return None
    if config.threshold is None:
        raise BadConfig(
            "treeps_rag needs --threshold, which no one has published",
            remedy="give an overlap of documents, such as 0.8",
        )
    return SearchGrowth(config.threshold, config.candidates, config.width, config.depth)


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
