"""Players that need no model: they take seats to show a policy a format, or to be played against.

Knows no token, no rule and no file.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import NamedTuple

from pipeline.environments.protocol import BadStep, Observation

Player = Callable[[Observation], str]
"""One seat in one episode: is shown what the seat sees, and says what it does."""


class Known(NamedTuple):
    """What a player may know beside what it is shown. answer: of the task; empty: none. info: JSON; None: nothing."""

    answer: str = ""
    info: str | None = None


def draw_moves(known: Known, chance: random.Random) -> Player:
    """Takes any of the moves that can be made, each as likely."""

    def say(seen: Observation) -> str:
        if not seen.actions:
            raise BadStep("the environment names no moves to draw from")
        return chance.choice(seen.actions)

    return say


def recite(known: Known, chance: random.Random) -> Player:
    """Makes the calls that the task's info records (`calls`, objects with name and arguments), one a turn, then
    answers."""
    info = json.loads(known.info or "{}")
    calls = info.get("calls") if isinstance(info, dict) else None
    left = iter(calls or ())

    def say(seen: Observation) -> str:
        if calls is None or not known.answer:
            raise BadStep("the task's info has no calls, or the task no answer, to recite")
        call = next(left, None)
        return f"#### {known.answer}" if call is None else f"<tool_call>{json.dumps(call)}</tool_call>"

    return say


PLAYERS: dict[str, Callable[[Known, random.Random], Player]] = {"random": draw_moves, "recite": recite}
