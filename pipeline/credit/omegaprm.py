"""OmegaPRM: a wrong rollout of a state that also has right ones is searched for its first error by halving.

Draws nothing: whoever searches says how rollouts of a prefix are had.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pipeline.credit.columns import ZERO
from pipeline.errors import BadConfig


@dataclass(frozen=True, slots=True)
class OmegaprmParams:
    """Parameters of OmegaPRM.

    rollouts: `k`, drawn of a state.
    alpha, beta, length: of Q: base for the share of wrong rollouts, base for length, and the tokens of a long one.
    c_puct: weight of the states seldom searched.
    search_limit: selections after which a task is done.
    rollout_budget: rollouts after which it is. None: no such limit.

    Raises:
        BadConfig: a number that makes no search.
    """

    rollouts: int = 8
    alpha: float = 0.5
    beta: float = 0.9
    length: float = 500.0
    c_puct: float = 0.125
    search_limit: int = 100
    rollout_budget: int | None = None

    def __post_init__(self) -> None:
        if self.rollouts < 1 or not self.length > 0:
            raise BadConfig(
                f"omegaprm rollouts {self.rollouts}, length {self.length}", remedy="use 1 or more, and above 0"
            )


DEFAULTS = OmegaprmParams()


class Priorities(NamedTuple):
    """Of `R` rollouts, `[R]` float64 each; NaN for one that is not in the pool.

    q: how useful the rollout is. u: how seldom its state was searched. score: the sum.
    """

    q: np.ndarray
    u: np.ndarray
    score: np.ndarray


class Located(NamedTuple):
    """Where `M` wrong solutions go wrong.

    first_error: `[M]` int64, steps of the shortest prefix found bad, from 1; 0 for a solution without steps.
    rows, lengths, mc: `[B]`, the probes in the order made: solution, steps of the prefix, share of right rollouts.
    """

    first_error: np.ndarray
    rows: np.ndarray
    lengths: np.ndarray
    mc: np.ndarray


class Rollout(NamedTuple):
    """A completion of a prefix. steps: those it adds. right: its answer is. tokens: its length."""

    steps: tuple[str, ...]
    right: bool
    tokens: int


@dataclass(slots=True)
class State:
    """A prefix of a solution, and what became of it.

    prefix: its steps. rollouts: completions of it.
    mc: share of right rollouts, the soft label; the hard one is whether it is above 0. NaN: no rollout.
    visits: how often a rollout of it was selected.
    """

    prefix: tuple[str, ...]
    rollouts: Sequence[Rollout]
    mc: float
    visits: int = 0


Probe = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Takes solutions and prefix lengths, `[B]` each; gives `[B]` float64, the share of right rollouts of each prefix."""


def priorities(
    mc: np.ndarray, tokens: np.ndarray, *, states: np.ndarray, visits: np.ndarray, params: OmegaprmParams = DEFAULTS
) -> Priorities:
    """Priority of wrong rollouts: `alpha^(1 - MC) beta^(tokens / length)`, and `c sqrt(sum N) / (1 + N)`.

    Args:
        mc: `[R]` float64, share of right rollouts of each one's state. Only between 0 and 1 is one in the pool.
        tokens: `[R]`, length of each rollout.
        states: `[R]` int, its state, from 0.
        visits: `[S]` int, of all states there are; their sum counts as 1 while it is 0.
        params: constants.

    Source: OmegaPRM (Luo et al., 2024). Deviation: the first selection sees the sum of 1, after a public
        re-implementation.
    """
    pooled = (mc > ZERO) & (mc < 1 - ZERO)
    q = params.alpha ** (1.0 - mc) * params.beta ** (np.asarray(tokens) / params.length)
    u = params.c_puct * np.sqrt(max(visits.sum(), 1)) / (1.0 + visits[states])
    q, u = np.where(pooled, q, np.nan), np.where(pooled, u, np.nan)
    return Priorities(q, u, q + u)


def select(scores: np.ndarray) -> int:
    """Place of the greatest score, the first of equals; -1 where none is a number."""
    known = np.nan_to_num(scores, nan=-np.inf)
    best = known.max(initial=-np.inf)
    return -1 if best == -np.inf else int(np.argmax(known >= best - ZERO))


def locate(lengths: np.ndarray, probe: Probe) -> Located:
    """Halve the steps of wrong solutions until one step is left, all solutions at once.

    No steps are known to be good, all of them to be bad. The middle, rounded down, is good if any rollout of it
    comes out right. At most `ceil(log2(steps))` probes a solution.

    Args:
        lengths: `[M]` int, steps of each solution.
        probe: says how good prefixes are; one without a rollout (NaN) is bad.

    Source: OmegaPRM (Luo et al., 2024). With few rollouts a prefix, what is found is a step from good to bad, and
        need not be the first.
    """
    good, bad = np.zeros_like(lengths), np.array(lengths, np.int64)
    made: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    while len(rows := np.flatnonzero(bad - good > 1)):
        middle = (good[rows] + bad[rows]) // 2
        mc = probe(rows, middle)
        solvable = mc > ZERO
        good[rows[solvable]], bad[rows[~solvable]] = middle[solvable], middle[~solvable]
        made.append((rows, middle, mc))
    empty = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    return Located(bad, *(np.concatenate(column) for column in zip(empty, *made, strict=True)))


@dataclass(slots=True)
class _Search:
    """One task's tree as it grows. pool: of the rollouts yet to be searched, state and place among its rollouts."""

    draw: Callable[[tuple[str, ...]], Sequence[Rollout]]
    params: OmegaprmParams
    states: list[State] = field(default_factory=list)
    places: dict[tuple[str, ...], int] = field(default_factory=dict)
    pool: list[tuple[int, int]] = field(default_factory=list)
    drawn: int = 0

    def spent(self) -> bool:
        budget = self.params.rollout_budget
        return budget is not None and self.drawn + self.params.rollouts > budget

    def state(self, prefix: tuple[str, ...]) -> State:
        """The state of a prefix; a new one is drawn from, and its wrong rollouts enter the pool."""
        if prefix not in self.places:
            rollouts = self.draw(prefix)
            self.drawn += len(rollouts)
            mc = float(np.mean([rollout.right for rollout in rollouts])) if rollouts else np.nan
            place = self.places[prefix] = len(self.states)
            self.states.append(State(prefix, rollouts, mc))
            if 0 < mc < 1:
                wrong = [n for n, rollout in enumerate(rollouts) if not rollout.right and rollout.steps]
                self.pool += [(place, n) for n in wrong]
        return self.states[self.places[prefix]]

    def select(self) -> tuple[State, Rollout]:
        """The state and the rollout that come first; the rollout leaves the pool."""
        at = np.array([place for place, _ in self.pool])
        rollouts = [self.states[place].rollouts[n] for place, n in self.pool]
        scores = priorities(
            np.array([self.states[place].mc for place in at]),
            np.array([rollout.tokens for rollout in rollouts]),
            states=at,
            visits=np.array([state.visits for state in self.states]),
            params=self.params,
        ).score
        chosen = select(scores)
        place, _ = self.pool.pop(chosen)
        self.states[place].visits += 1
        return self.states[place], rollouts[chosen]


def search(draw: Callable[[tuple[str, ...]], Sequence[Rollout]], params: OmegaprmParams = DEFAULTS) -> list[State]:
    """Search one task: select a wrong rollout, halve it, keep every probed prefix as a state; again.

    Ends after `search_limit` selections, when no wrong rollout is left, or before the rollouts would exceed the budget.
    A prefix met again is the state it was, and costs no rollouts.

    Args:
        draw: gives `params.rollouts` completions of the steps of a prefix; of none, solutions of the task.
        params: constants and limits.

    Returns:
        The states in the order met, the root first; it alone if its rollouts are all right or all wrong.

    Source: OmegaPRM (Luo et al., 2024).
    """
    tree = _Search(draw, params)
    tree.state(())
    for _ in range(params.search_limit):
        if not tree.pool or tree.spent():
            break
        origin, rollout = tree.select()
        good, bad = 0, len(rollout.steps)
        while bad - good > 1 and not tree.spent():
            middle = (good + bad) // 2
            solvable = tree.state(origin.prefix + rollout.steps[:middle]).mc > 0
            good, bad = (middle, bad) if solvable else (good, middle)
    return tree.states


def parents(states: Sequence[State]) -> np.ndarray:
    """`[S]` int64: place of the state with the longest prefix that each one goes on from; -1 at the root."""
    places = {state.prefix: place for place, state in enumerate(states)}
    above = np.full(len(states), -1)
    for place, state in enumerate(states):
        shorter = (places.get(state.prefix[:length]) for length in reversed(range(len(state.prefix))))
        above[place] = next((found for found in shorter if found is not None), -1)
    return above
