"""How large a bench is and what its forest looks like. Imports nothing heavy: the command reads the defaults."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pipeline.bench.metric import Params
from pipeline.errors import BadConfig

MOST_SHARED = 16


@dataclass(frozen=True, slots=True)
class Shape:
    """A forest, but for chance. The same shape is the same forest, whatever is measured on it.

    tasks:         trees, one a task.
    seed:          of all that is drawn.
    branching:     children of a node by depth, the root's first; as many depths as there are numbers.
    early_stop:    share of inner steps that end their path.
    prompt_tokens: median length of a prompt; lengths are log-normal.
    step_tokens:   median length of a step.
    spread:        standard deviation of the logarithm of both.
    shared_tokens: mean number of tokens with which a step begins as its siblings do, at most MOST_SHARED.
    unjudged:      share of leaves without a verdict.

    Raises:
        BadConfig: no such forest can be.
    """

    tasks: int = 400
    seed: int = 0
    branching: tuple[int, ...] = (4, 4, 4)
    early_stop: float = 0.1
    prompt_tokens: int = 150
    step_tokens: int = 40
    spread: float = 0.7
    shared_tokens: float = 3.0
    unjudged: float = 0.02

    def __post_init__(self) -> None:
        if self.tasks < 1:
            raise BadConfig(f"a forest of {self.tasks} tasks cannot be grown", remedy="give at least 1 with --tasks")
        if self.seed < 0:
            raise BadConfig(f"seed {self.seed} is negative", remedy="give 0 or more with --seed")
        if not self.branching or min(self.branching) < 1:
            raise BadConfig(f"branching {self.branching} has a depth without children", remedy="give 1 or more a depth")

    def params(self) -> Params:
        """What the forest was made from, as the metrics state it."""
        return asdict(self)
