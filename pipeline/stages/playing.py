"""How the episodes of a suite are set up: who sits where, with which seed, under which rules. Stages play them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from pipeline.environments.driver import Driver
from pipeline.environments.episode import Episode, Rules, Seat
from pipeline.environments.players import PLAYERS, Known, Player
from pipeline.environments.protocol import Opened, Task
from pipeline.environments.story import Story
from pipeline.environments.wants import Playing
from pipeline.errors import BadConfig
from pipeline.generation.engines import MAX_LENGTH, open_tokens
from pipeline.stages.work import Work
from pipeline.tasks.verifiers import Question, Verdict, verify
from pipeline.trees.draft import Reading
from pipeline.trees.segment import cut_steps

if TYPE_CHECKING:
    from pipeline.environments.chat import Chat

POLICY = "policy"
"""In place of a player's name: the policy itself."""


@dataclass(frozen=True, slots=True)
class Players:
    """Who plays, `policy` or a key of PLAYERS. player: one seat of each episode, in turn. opponent: the others."""

    player: str = POLICY
    opponent: str = POLICY

    def __post_init__(self) -> None:
        for name in (self.player, self.opponent):
            if name != POLICY and name not in PLAYERS:
                raise BadConfig(f"player {name!r} does not exist", remedy=f"choose of {', '.join((POLICY, *PLAYERS))}")


class Trials(NamedTuple):
    """Outcomes of attempts that are not kept.

    rewards: `[N, samples]` float64, verdicts on the policy's answers, or on the seat of `Players.player`; NaN: none.
    missed:  requests that failed and that another run may have answered.
    """

    rewards: np.ndarray
    missed: set[str]


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """What the episodes of a stage share."""

    work: Work
    opened: Opened
    players: Players
    rules: Rules
    chat: Chat
    reading: Reading

    def episode(self, row: Mapping[str, Any], number: int, stories: dict[str, Story]) -> Episode:
        """An episode of a task, not begun.

        Args:
            row: of the table of tasks.
            number: of the task's episodes.
            stories: by tree, those that have begun; what is new is added. A task played by one seat is one tree, a
                game or dialogue a tree a seat.
        """
        environment, task = self.opened.make(), row["task"]
        alone = len(environment.seats) == 1
        tree = f"{task}@{self.work.round}"
        episode = tree if alone else f"{tree}/{number}"
        seats = []
        for place, (agent, told_first) in enumerate(zip(environment.seats, environment.instructions, strict=True)):
            name = tree if alone else f"{episode}/{place}"
            story = stories.setdefault(name, Story(task, name, episode, agent, row["question"], self.reading))
            messages = [{"role": "system", "content": told_first}] if told_first else []
            player = self._player(row, number, place, own=place == number % len(environment.seats))
            seats.append(Seat(story, messages, player=player))
        question = Question(row["answer"], row["info"])
        return Episode(
            number if environment.judge == "verifier" else _seed(row, number),  # games begin alike, yet are not one
            environment,
            Task(row["question"], row["info"]),
            _seed(row, None if alone else number),
            seats,
            self.chat,
            self.rules,
            lambda text: verify(row["verifier"], question, text),
            self.opened.forfeit,
        )

    def _player(self, row: Mapping[str, Any], number: int, place: int, *, own: bool) -> Player | None:
        name = self.players.player if own else self.players.opponent
        chance = random.Random(f"{row['task']}/{number}/{place}")
        return None if name == POLICY else PLAYERS[name](Known(row["answer"], row["info"]), chance)


def setting_of(work: Work, opened: Opened, players: Players, rules: Rules) -> Setting:
    """The setting of a suite's episodes with the tokenizer of the work's policy."""
    from pipeline.environments.chat import chat_of

    tokens, separator = open_tokens(work.policy), work.suite.separator
    reading = Reading(
        tokens.decode,
        lambda ids: cut_steps(ids, separator, closers=tokens.closers(separator), decode=tokens.decode),
        tokens.encode,
    )
    return Setting(work, opened, players, rules, chat_of(work.policy), reading)


def rules_of(work: Work, **rules: Any) -> Rules:
    """Rules with what the suite and the policy say of lengths."""
    return Rules(most_tokens=work.suite.max_tokens, length=min(MAX_LENGTH, work.policy.max_length), **rules)


def environment_of(work: Work, opened: Opened) -> str:
    """Name, version and options of the suite's environment, for what is made from it."""
    return json.dumps([work.suite.environment.name, opened.version, asdict(work.suite.environment.options)])


def play_tasks(
    work: Work, opened: Opened, tasks: pl.DataFrame, *, episodes: int, players: Players, rules: Rules, stage: str
) -> Trials:
    """What came of so many episodes of each task, of which nothing else is kept."""
    setting, rows = setting_of(work, opened, players, rules), list(tasks.iter_rows(named=True))
    trials = (
        _Trial(place, number, setting.episode(row, number, {}))
        for place, row in enumerate(rows)
        for number in range(episodes)
    )
    rewards = np.full((len(rows), episodes), np.nan)
    with work.sampler(stage) as sampler:
        for trial in Driver(sampler).run(trials):
            verdict = trial.own_verdict()
            if verdict is not None and verdict.reward is not None:
                rewards[trial.place, trial.number] = verdict.reward
    return Trials(rewards, sampler.missed)


class _Trial(NamedTuple):
    """An episode that only its outcome is wanted of. place: of its task. number: of the task's episodes."""

    place: int
    number: int
    episode: Episode

    def play(self) -> Playing:
        return self.episode.play()

    def own_verdict(self) -> Verdict | None:
        """Of the seat that is measured; None where it had no turn, or nobody judges."""
        endings = self.episode.seats[self.number % len(self.episode.seats)].story.endings
        return endings[-1].verdict if endings else None


def _seed(row: Mapping[str, Any], number: int | None) -> int:
    """Of an episode: the task's own, or one from its name. Episodes of several seats have one each."""
    own = json.loads(row["info"] or "{}")
    own = own.get("seed") if isinstance(own, dict) else None
    if number is None and isinstance(own, int):
        return own
    digest = hashlib.blake2b(f"{row['task'] if own is None else own}/{number}".encode(), digest_size=4)
    return int(digest.hexdigest(), 16) & 0x7FFFFFFF
