"""A dialogue of two in a scenario, each with a goal of its own that the other does not know. Nobody judges it here.

What each made of its goal is for a judge to say, in the table of scores.

Source: SOTOPIA's setting, as Sotopia-RL and EPO (both 2025) use it; how turns are shown is ours.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from pipeline.environments.protocol import BadStep, Observation, Opened, Step, Task
from pipeline.errors import BadConfig, check_counts
from schemas.words import SEATS

VERSION = "2"
LEAVING = "[leave]"
_FIELDS = {"scenario", "names", "goals"}


@dataclass(frozen=True, slots=True)
class Options:
    """scenarios: each a table of `scenario` (text), `names` and `goals` (two each); a task's seed is the place of its
    own. turns: messages after which it ends, of both together.
    """

    scenarios: list[dict]
    turns: int = 10

    def __post_init__(self) -> None:
        check_counts(self, of="dialogue", turns=1)
        for place, scenario in enumerate(self.scenarios):
            pairs = [scenario.get("names"), scenario.get("goals")]
            if scenario.keys() != _FIELDS or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
                raise BadConfig(
                    f"scenario {place} is not one of two", remedy="give it scenario, and names and goals of two each"
                )


class Dialogue:
    """One dialogue. It ends when one leaves, or after so many messages."""

    seats = SEATS[:2]
    judge = "nobody"
    replayable = True
    instructions = (f"Stay in your part. Answer with what you say, alone; to end the dialogue, say {LEAVING}.",) * 2

    def __init__(self, options: Options):
        self._options = options

    def reset(self, task: Task, seed: int) -> Observation:
        place = json.loads(task.info or "{}").get("seed")
        if not isinstance(place, int) or not 0 <= place < len(self._options.scenarios):
            raise BadStep(f"there is no scenario {place}")
        self._scenario, self._said = self._options.scenarios[place], []
        return self._seen()

    def step(self, action: str) -> Step:
        self._said.append(action)
        if LEAVING in action or len(self._said) >= self._options.turns:
            return Step(None, (0.0, 0.0), done=True)
        return Step(self._seen(), (0.0, 0.0))

    def copy(self) -> Dialogue:
        other = Dialogue(self._options)
        other._scenario, other._said = self._scenario, [*self._said]
        return other

    def close(self) -> None:
        return None

    def _seen(self) -> Observation:
        turn = len(self._said)
        seat, names = turn % 2, self._scenario["names"]
        part = [
            self._scenario["scenario"],
            f"You are {names[seat]}, the other is {names[1 - seat]}.",
            f"Your goal: {self._scenario['goals'][seat]}",
        ]
        said = f"{names[1 - seat]}: {self._said[-1]}" if self._said else "You begin."
        return Observation(said, json.dumps(self._said), seat, told="\n".join(part) if turn < 2 else "")


def opened(options: Options) -> Opened:
    """Dialogues in the scenarios of a suite."""
    return Opened(lambda: Dialogue(options), VERSION)
