"""Any environment of Gymnasium whose actions are texts or have names, and whose states can be read as text.

Runs in processes beside this one, with a time limit, for it is anybody's code.
"""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pipeline.environments.foreign import Foreign, Host
from pipeline.environments.games import chosen_move
from pipeline.environments.protocol import BadStep, Observation, Opened, Step, Task
from pipeline.errors import BadConfig

VERSION = "1"
_MARKED = re.compile(r"\x1b\[[0-9;]*m(.*?)\x1b\[0?m", re.DOTALL)
_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_NO_REMEDY = "install it: pip install -e '.[environments]'"


@dataclass(frozen=True, slots=True)
class Options:
    """id: as `gymnasium.make` takes it; `module:id` imports the module first. parameters: of the environment.

    actions: names of a discrete environment's actions, in their order; none where actions are texts.
    instructions: what the policy is told first.
    replayable: whether the same seed and actions give the same states, unless its registration says that they do not.
    copyable: whether Python's deep copy of it is another that stands where it does.
    full:    sum of rewards that counts as full success; a verdict is the share of it.
    seconds: that an action may take.
    """

    id: str
    parameters: dict[str, Any] = field(default_factory=dict)
    actions: list[str] = field(default_factory=list)
    instructions: str = ""
    replayable: bool = True
    copyable: bool = False
    full: float = 1.0
    seconds: float = 10.0

    def __post_init__(self) -> None:
        if not (self.full > 0 and self.seconds > 0):
            raise BadConfig(f"gymnasium {self.id}: full or seconds is not above 0", remedy="give positive numbers")


class GymEnvironment:
    """One environment of Gymnasium, as ours are."""

    seats = ("solver",)
    instructions = ("",)
    judge = "environment"

    def __init__(self, options: Options):
        import gymnasium

        self._options = options
        self._environment = gymnasium.make(options.id, disable_env_checker=True, **options.parameters)
        self.replayable = options.replayable and not self._environment.spec.nondeterministic
        space = self._environment.action_space
        if not isinstance(space, gymnasium.spaces.Text) and getattr(space, "n", None) != len(options.actions):
            raise BadStep(f"{options.id} takes {space}, the suite names {len(options.actions)} actions")

    def reset(self, task: Task, seed: int) -> Observation:
        seen, _ = self._environment.reset(seed=seed)
        self._total, self._seen = 0.0, self._shown(seen)
        return self._seen

    def step(self, action: str) -> Step:
        names = tuple(self._options.actions)
        name = chosen_move(action, names) if names else action
        if name is None:
            return Step(self._seen._replace(text=f"There is no such action.\n{self._seen.text}"), invalid=True)
        taken = names.index(name) + int(self._environment.action_space.start) if names else name
        seen, reward, terminated, truncated, _ = self._environment.step(taken)
        self._total += float(reward)
        if terminated or truncated:
            score = min(1.0, max(0.0, self._total / self._options.full))
            return Step(None, (float(reward),), done=True, scores=(score,))
        self._seen = self._shown(seen)
        return Step(self._seen, (float(reward),))

    def copy(self) -> GymEnvironment | None:
        return deepcopy(self) if self._options.copyable else None

    def close(self) -> None:
        self._environment.close()

    def _shown(self, seen: Any) -> Observation:
        """A state as text: as it is, or as the environment draws it; what it marks by colour stands in brackets."""
        draws = not isinstance(seen, str) and self._environment.render_mode == "ansi"
        drawn = self._environment.render() if draws else None
        text = drawn if isinstance(drawn, str) else str(seen)
        text = _ESCAPE.sub("", _MARKED.sub(r"[\1]", text)).strip()
        if self._options.actions:
            text += f"\nActions: {', '.join(self._options.actions)}"
        return Observation(text, str(seen), actions=tuple(self._options.actions))


def opened(options: Options) -> Opened:
    """Environments by their id.

    Raises:
        BadConfig: Gymnasium is not installed, or has none of that id.
    """
    try:
        import gymnasium
    except ImportError as error:
        raise BadConfig("Gymnasium is not installed", remedy=_NO_REMEDY) from error
    replayable = options.replayable
    try:
        if ":" not in options.id:
            replayable = replayable and not gymnasium.spec(options.id).nondeterministic
    except gymnasium.error.Error as error:
        raise BadConfig(f"Gymnasium has no {options.id!r}: {error}", remedy="see gymnasium.registry") from error
    host = Host(partial(GymEnvironment, options), seconds=options.seconds)
    told, judge = (options.instructions,), GymEnvironment.judge
    said = {"seats": GymEnvironment.seats, "instructions": told, "judge": judge, "replayable": replayable}
    return Opened(lambda: Foreign(host, **said), f"{VERSION} {gymnasium.__version__}")
