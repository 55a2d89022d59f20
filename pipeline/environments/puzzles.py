"""Small puzzles for Gymnasium, deterministic and solvable, for suites that need no download. Imported by their id."""

from __future__ import annotations

import random
import string
from typing import Any, ClassVar

import gymnasium
from gymnasium.envs.registration import register

MOVES = {"add 3": lambda value: value + 3, "double": lambda value: value * 2, "subtract 1": lambda value: value - 1}
"""What may be done, in the order of the actions' numbers."""


class NumberPath(gymnasium.Env):
    """Get from one number to another by a few kinds of moves. Pays 1 at the target, and ends there or at the last move.

    length: moves of the walk that made the target, so it can be reached in as many. most: moves that may be made.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self, length: int = 3, most: int = 6):
        self.action_space = gymnasium.spaces.Discrete(len(MOVES))
        self.observation_space = gymnasium.spaces.Text(100, charset=string.printable)
        self._length, self._most = length, most

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        draw = random.Random(seed)
        self._value = self._target = draw.randint(1, 9)
        while self._target == self._value:
            self._target = self._value
            for _ in range(self._length):
                self._target = draw.choice(list(MOVES.values()))(self._target)
        self._made = 0
        return self._state(), {}

    def step(self, action: int) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self._value = list(MOVES.values())[action](self._value)
        self._made += 1
        there = self._value == self._target
        return self._state(), float(there), there, self._made >= self._most, {}

    def _state(self) -> str:
        return f"Number: {self._value}. Target: {self._target}. Moves left: {self._most - self._made}."


register("NumberPath-v0", entry_point=NumberPath)
