"""What a bench's forest looks like and how large what else is drawn. Imports nothing heavy, for the command's sake."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pipeline.bench.metric import Params
from pipeline.errors import BadConfig

MOST_SHARED = 16


@dataclass(frozen=True, slots=True)
class Shape:
    """A forest, but for chance. The same shape is the same forest, whatever is measured on it.

    tasks:           trees, one a task.
    seed:            of all that is drawn.
    branching:       children of a node by depth, the root's first; as many depths as there are numbers.
    early_stop:      share of inner steps that end their path.
    prompt_tokens:   mean length of a prompt; lengths are log-normal.
    step_tokens:     mean length of a step, a reflection, a critique.
    spread:          standard deviation of the logarithm of both.
    shared_tokens:   mean number of tokens with which a step begins as its siblings do, at most MOST_SHARED.
    unjudged:        share of leaves without a verdict.
    retried:         share of the trees with a failed sample in which one is reflected on and tried again.
    intervened:      share of the trees with a failed sample of two steps or more in which a step is replaced.
    repeated_states: share of steps that come to a state to which others of their depth come too. None: the tasks have
        no environment.
    shard_tasks:     tasks in a shard.

    Raises:
        BadConfig: no such forest can be.
    """

    tasks: int = 400
    seed: int = 0
    branching: tuple[int, ...] = (4, 4, 4)
    early_stop: float = 0.1
    prompt_tokens: int = 200
    step_tokens: int = 50
    spread: float = 0.7
    shared_tokens: float = 3.0
    unjudged: float = 0.02
    retried: float = 0.0
    intervened: float = 0.0
    repeated_states: float | None = None
    shard_tasks: int = 4096

    def __post_init__(self) -> None:
        if self.tasks < 1:
            raise BadConfig(f"a forest of {self.tasks} tasks cannot be grown", remedy="give at least 1 with --tasks")
        if self.seed < 0:
            raise BadConfig(f"seed {self.seed} is negative", remedy="give 0 or more with --seed")
        if not self.branching or min(self.branching) < 1:
            raise BadConfig(f"branching {self.branching} has a depth without children", remedy="give 1 or more a depth")
        if self.shard_tasks < 1:
            raise BadConfig(
                f"shards of {self.shard_tasks} tasks cannot be written", remedy="give at least 1 with --shard-tasks"
            )

    def params(self) -> Params:
        """What the forest was made from, as the metrics state it."""
        return asdict(self)


SHAPES: dict[str, Shape] = {
    "mixed": Shape(retried=0.3, intervened=0.2, repeated_states=0.3),
    "math": Shape(branching=(3, 3, 3), early_stop=0.0, prompt_tokens=500, step_tokens=250),
    "group": Shape(branching=(8,), early_stop=0.0, prompt_tokens=500, step_tokens=800),
    "agentic": Shape(
        branching=(2, 2, 2, 2, 2), early_stop=0.0, prompt_tokens=1800, step_tokens=200, repeated_states=0.3
    ),
}
"""By name: one with something of everything, and three as they are met: groups of answers, trees of three splits, turns
of agents in an environment."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much the benches take that draw more than the forest.

    nodes:  of the larger forest, about, which is queried and credited from the store on.
    leaves: put together from disk.
    trees:  of the store that is only opened.
    rows:   of steps that are credited in one shard.

    Raises:
        BadConfig: one is less than 1.
    """

    nodes: int = 1_000_000
    leaves: int = 10_000
    trees: int = 20_000
    rows: int = 5_000_000

    def __post_init__(self) -> None:
        for name, size in asdict(self).items():
            if size < 1:
                raise BadConfig(f"{size} {name} are too few", remedy=f"give at least 1 with --{name}")
