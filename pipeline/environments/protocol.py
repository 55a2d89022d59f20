"""What an environment is: it takes an action as text and says what is seen then. Close to Gymnasium's protocol.

Knows no policy, no token, no file; what comes of an environment is checked here before anything is made of it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

LONGEST = 8000
"""Characters of an observation; what is longer is cut, and says so."""
_CUT = "\n[cut]"


class Task(NamedTuple):
    """What an environment may know of a task: not its answer. info: JSON; None: nothing."""

    question: str
    info: str | None = None


class Observation(NamedTuple):
    """What the seat whose turn it is gets to see.

    text:      shown to the policy.
    told:      shown before it; what a seat is told of its part, once, when its first turn comes.
    state_key: equal for equal states of a task; empty: that of the text.
    seat:      whose turn it is, from 0.
    actions:   those that can be taken; empty: any text.
    """

    text: str
    state_key: str = ""
    seat: int = 0
    actions: tuple[str, ...] = ()
    told: str = ""

    @property
    def shown(self) -> str:
        """All that the policy is shown."""
        return f"{self.told}\n{self.text}" if self.told else self.text


class Step(NamedTuple):
    """What came of an action.

    observation: what is seen then; None once done.
    rewards: of each seat, finite.
    done:    the episode has ended.
    invalid: the action could not be taken; the observation says why.
    calls:   the tool calls of the action, as `calls_json` gives them; None: it made none.
    answer:  text for the task's verifier, once done.
    scores:  of each seat, in [0, 1], once done, where the environment judges.
    info:    whatever else there is to say, for people.
    """

    observation: Observation | None
    rewards: tuple[float, ...] = (0.0,)
    done: bool = False
    invalid: bool = False
    calls: str | None = None
    answer: str | None = None
    scores: tuple[float, ...] | None = None
    info: str = ""


JUDGES = ("verifier", "environment", "nobody")
"""Who judges an episode: the task's verifier reads the last turn; the environment; nobody, scores come later."""


class Environment(Protocol):
    """One episode at a time; whoever plays several has as many environments.

    seats:        word of AGENTS of each who takes turns.
    instructions: for each seat what it is told first; empty: nothing.
    judge:        word of JUDGES.
    replayable:   said to give the same states for the same task, seed and actions, so that `replay` goes back to any of
        them; it looks whether they are.
    """

    seats: tuple[str, ...]
    instructions: tuple[str, ...]
    judge: str
    replayable: bool

    def reset(self, task: Task, seed: int) -> Observation:
        """Begin an episode."""
        ...

    def step(self, action: str) -> Step:
        """Take the action of the seat whose turn it is."""
        ...

    def copy(self) -> Environment | None:
        """Another that stands where this one does, for both to go on by themselves; None: it cannot be copied."""
        ...

    def close(self) -> None:
        """Give back what it holds; it is not used again."""
        ...


@dataclass(frozen=True, slots=True)
class Opened:
    """An environment of a suite. make: a new one for an episode. version: rises when the same actions give others.
    rivals: its seats play against one another, so what the policy earns against itself says nothing of it.
    forfeit: paid to the seat with which an episode ends unfinished, where the environment judges.
    searches: one seat can search in it, and `calls` say what was retrieved.
    """

    make: Callable[[], Environment]
    version: str
    rivals: bool = False
    forfeit: float = 0.0
    searches: bool = False


class BadStep(ValueError):
    """An environment gave what no environment may give."""


class Passed(NamedTuple):
    """A turn that was taken once. state_key: as `checked_observation` gave it before the turn. action: its text."""

    state_key: str
    action: str


class Stand(NamedTuple):
    """Where an episode is before a turn. seen: there. invalid: actions in a row before it that could not be taken."""

    seen: Observation
    invalid: int = 0


def replay(environment: Environment, task: Task, turns: Sequence[Passed], *, seed: int) -> Iterator[Stand]:
    """Go the way of an episode again, from its beginning, and stop before the last of some turns.

    Yields:
        Where it is before each turn, the environment standing there.

    Raises:
        BadStep: the environment is not replayable, came to another state or to its end, or gave what it may not.
    """
    if not environment.replayable:
        raise BadStep("the environment does not say that it is replayable")
    seats = len(environment.seats)
    stand = Stand(checked_observation(environment.reset(task, seed), seats=seats))
    for place, turn in enumerate(turns):
        if stand.seen.state_key != turn.state_key:
            raise BadStep(f"turn {place} came in another state")
        yield stand
        if place == len(turns) - 1:
            return
        step = checked_step(environment.step(turn.action), seats=seats)
        if step.done:
            raise BadStep(f"it ended after turn {place}")
        stand = Stand(step.observation, stand.invalid + 1 if step.invalid else 0)


def checked_observation(seen: object, *, seats: int, longest: int = LONGEST) -> Observation:
    """An observation as it may go to a policy: cut where it is too long, its state named by a hash.

    Raises:
        BadStep: it is none, or its text is no text, or there is no such seat.
    """
    if not isinstance(seen, Observation):
        raise BadStep(f"the observation is a {type(seen).__name__}")
    if not all(isinstance(one, str) for one in (seen.text, seen.state_key, seen.told)):
        kinds = (type(one).__name__ for one in (seen.text, seen.state_key, seen.told))
        raise BadStep("the observation's text is a {}, its key a {}, what is told a {}".format(*kinds))
    if not 0 <= seen.seat < seats:
        raise BadStep(f"it is the turn of seat {seen.seat}, there are {seats}")
    told, text = (
        (one if len(one) <= longest else one[:longest] + _CUT).encode(errors="replace").decode()
        for one in (seen.told, seen.text)
    )
    return seen._replace(text=text, told=told, state_key=_key(seen.state_key or seen.text))


def checked_step(step: object, *, seats: int, longest: int = LONGEST) -> Step:
    """A step as it may be recorded.

    Raises:
        BadStep: it is none, or a reward is not finite, or a score not in [0, 1], or it neither ends nor goes on.
    """
    if not isinstance(step, Step):
        raise BadStep(f"the step is a {type(step).__name__}")
    for name, values in (("rewards", step.rewards), ("scores", step.scores or (0.0,) * seats)):
        if len(values) != seats or not all(isinstance(one, int | float) and math.isfinite(one) for one in values):
            raise BadStep(f"the {name} are {values!r}"[:200])
    if not all(0 <= score <= 1 for score in step.scores or ()):
        raise BadStep(f"the scores are {step.scores!r}")
    if step.done:
        return step._replace(observation=None)
    return step._replace(observation=checked_observation(step.observation, seats=seats, longest=longest))


def _key(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=8).hexdigest()
