"""Games of OpenSpiel for one or more seats: each is told what it may know, in text, and moves by naming a move.

Chance moves as the seed says. What a seat is paid for its moves, and for bad ones, is the suite's to say; the
defaults are those of MARS (2025), whose game losses the minimum of the game's own utility stands for.
"""

from __future__ import annotations

import random
import re
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from pipeline.environments.protocol import Observation, Opened, Step, Task
from pipeline.errors import BadConfig
from schemas.words import SEATS

VERSION = "2"


@dataclass(frozen=True, slots=True)
class Options:
    """game: name in OpenSpiel. parameters: of the game.

    instructions: what each seat is told first.
    valid_move: paid for each move that can be made. bad_move: what the seat loses beside the game that makes one that
    cannot be, which ends the game, or with which a rule ends it: a turn too long, no room or no turn left, a loop.
    """

    game: str
    parameters: dict[str, Any] = field(default_factory=dict)
    instructions: str = ""
    valid_move: float = 0.05
    bad_move: float = 10.0


class Game:
    """One game of OpenSpiel."""

    judge = "environment"
    replayable = True

    def __init__(self, game: Any, options: Options):
        count = game.num_players()
        self._game, self._options = game, options
        self._low, self._high = game.min_utility(), game.max_utility()
        self.seats = SEATS[:count] if count > 1 else ("solver",)
        said = options.instructions or f"You play {game.get_type().long_name}."
        self.instructions = (f"{said} Answer with one of the moves that you are given, alone.",) * count

    def reset(self, task: Task, seed: int) -> Observation:
        self._chance = random.Random(seed)
        self._state = self._game.new_initial_state()
        self._moved: list[tuple[int, str]] = []
        self._told = [0] * len(self.seats)
        self._let_chance_move()
        return self._seen()

    def step(self, action: str) -> Step:
        seat, legal = self._state.current_player(), self._legal()
        name = chosen_move(action, tuple(legal))
        if name is None:
            return self._forfeited(seat)
        before = self._state.returns()
        self._state.apply_action(legal[name])
        self._moved.append((seat, name))
        self._let_chance_move()
        rewards = [now - then for now, then in zip(self._state.returns(), before, strict=True)]
        rewards[seat] += self._options.valid_move
        if self._state.is_terminal():
            return Step(None, tuple(rewards), done=True, scores=tuple(map(self._score, self._state.returns())))
        return Step(self._seen(), tuple(rewards))

    def copy(self) -> Game:
        other = Game(self._game, self._options)
        other._chance = copy(self._chance)
        other._state, other._moved, other._told = self._state.clone(), [*self._moved], [*self._told]
        return other

    def close(self) -> None:
        return None

    def _forfeited(self, seat: int) -> Step:
        """The end of a game by a move that cannot be made."""
        rewards, scores = [0.0] * len(self.seats), [self._score(0.0)] * len(self.seats)
        rewards[seat], scores[seat] = forfeit(self._game, self._options), 0.0
        return Step(None, tuple(rewards), done=True, invalid=True, scores=tuple(scores), info="no such move")

    def _score(self, utility: float) -> float:
        return min(1.0, max(0.0, (utility - self._low) / (self._high - self._low)))

    def _let_chance_move(self) -> None:
        while self._state.is_chance_node():
            moves, weights = zip(*self._state.chance_outcomes(), strict=True)
            self._state.apply_action(self._chance.choices(moves, weights)[0])

    def _legal(self) -> dict[str, int]:
        seat = self._state.current_player()
        return {self._state.action_to_string(seat, move): move for move in self._state.legal_actions(seat)}

    def _seen(self) -> Observation:
        """What the seat to move may know: what others did since it last moved, where it stands, and its moves."""
        seat, moves = self._state.current_player(), tuple(self._legal())
        lines = [f"Player {mover} moved: {name}" for mover, name in self._moved[self._told[seat] :] if mover != seat]
        self._told[seat] = len(self._moved)
        known = self._known(seat)
        lines += [f"You are player {seat}.", known, f"Moves: {', '.join(moves)}"]
        return Observation("\n".join(lines), f"{seat} {known}", seat, moves)

    def _known(self, seat: int) -> str:
        kind = self._game.get_type()
        if kind.information == kind.information.PERFECT_INFORMATION:
            return str(self._state)
        if kind.provides_information_state_string:
            return self._state.information_state_string(seat)
        return self._state.observation_string(seat)


def forfeit(game: Any, options: Options) -> float:
    """What the seat is paid with which a game ends unfinished: the worst that the game has, and what is lost beside."""
    return game.min_utility() - options.bad_move


def chosen_move(text: str, moves: tuple[str, ...]) -> str | None:
    """The move that a text names last, as a word of its own, whatever its case; None where it names none."""
    places = {
        name: max((found.start() for found in re.finditer(_word(name), text, re.IGNORECASE)), default=-1)
        for name in moves
    }
    best = max(moves, key=lambda name: (places[name], len(name)), default=None)
    return best if best is not None and places[best] >= 0 else None


def _word(name: str) -> str:
    return rf"(?<!\w){re.escape(name)}(?!\w)"


def opened(options: Options) -> Opened:
    """Games by name.

    Raises:
        BadConfig: OpenSpiel is not installed, has no such game, or one in which several move at once.
    """
    try:
        import pyspiel
    except ImportError as error:
        raise BadConfig("OpenSpiel is not installed", remedy="pip install -e '.[environments]'") from error
    if options.game not in pyspiel.registered_names():
        raise BadConfig(f"OpenSpiel has no game {options.game!r}", remedy="see pyspiel.registered_names()")
    try:
        game = pyspiel.load_game(options.game, options.parameters)
    except pyspiel.SpielError as error:
        said = str(error).splitlines()[0]
        raise BadConfig(f"game {options.game!r}: {said}", remedy="correct its parameters") from error
    kind = game.get_type()
    if kind.dynamics != kind.dynamics.SEQUENTIAL or not 1 <= game.num_players() <= len(SEATS):
        raise BadConfig(
            f"game {options.game!r} has no turns", remedy=f"choose one with 1 to {len(SEATS)} seats in turn"
        )
    rivals = game.num_players() > 1 and kind.utility != kind.utility.IDENTICAL
    return Opened(lambda: Game(game, options), VERSION, rivals, forfeit(game, options))
