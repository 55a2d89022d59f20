"""Knapsack RL: as many rollouts for each task as teach the most, under one budget for all.

Does not know how a success rate came about.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.errors import BadConfig, check_words

SOLVERS = ("greedy", "dp")
"""One rollout at a time where it adds most, which is optimal; the programme of the official code."""
COSTS = ("probability", "expectation")
"""How many rollouts a task may take before there is budget to spare: until both outcomes are seen with probability
alpha, or in expectation."""


@dataclass(frozen=True, slots=True)
class KnapsackParams:
    """Parameters of Knapsack RL.

    n: rollouts of a task without a history, and the mean over all tasks where no total is given.
    min_n: the least for a task with a rate between 0 and 1. negative_n, positive_n: for a rate of 0, and of 1.
    max_n: the most that the solver gives a task.
    solver: word of SOLVERS.
    cost_estimation: word of COSTS. alpha: the probability of the first.
    allow_fallback: budget that effective tasks have no use for goes to the others.
    total_budget: rollouts of all tasks. None: `n` for each.

    Raises:
        BadConfig: no such solver or cost, a negative number, no `max_n`, or one below `min_n`.
    """

    n: int = 8
    min_n: int = 2
    negative_n: int = 2
    positive_n: int = 2
    max_n: int = 128
    solver: str = "greedy"
    cost_estimation: str = "probability"
    alpha: float = 0.9
    allow_fallback: bool = True
    total_budget: int | None = None

    def __post_init__(self) -> None:
        check_words(self, of="knapsack", solver=SOLVERS, cost_estimation=COSTS)
        if self.max_n is None or self.max_n < self.min_n:
            raise BadConfig(
                f"knapsack max_n {self.max_n} is no limit above min_n {self.min_n}", remedy="give one, such as 128"
            )
        if min(self.n, self.min_n, self.negative_n, self.positive_n) < 0:
            raise BadConfig("knapsack gives a task a negative number of rollouts", remedy="give none below 0")
        if not 0 < self.alpha < 1:
            raise BadConfig(f"knapsack alpha {self.alpha} is no probability", remedy="give one between 0 and 1")


DEFAULTS = KnapsackParams()


class Allocation(NamedTuple):
    """Of `N` tasks.

    rollouts: `[N]` int64. effective: `[N]` bool, the task has a history and a rate between 0 and 1.
    fallback: budget was taken from effective tasks for the others. effective_ratio: share of it that was left to them.
    total_value: of the effective tasks at their rollouts.
    """

    rollouts: np.ndarray
    effective: np.ndarray
    fallback: bool
    effective_ratio: float
    total_value: float


def rollout_value(rollouts: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """`[N]` float64: chance that the rollouts differ in outcome, times what a task of that rate has to teach."""
    return (1.0 - rates**rollouts - (1.0 - rates) ** rollouts) * rates * (1.0 - rates) ** 2


def rollout_cost(rates: np.ndarray, params: KnapsackParams = DEFAULTS) -> np.ndarray:
    """`[N]` float64: rollouts that a task with a rate between 0 and 1 is thought to need."""
    if params.cost_estimation == "probability":
        return np.log(1.0 - params.alpha) / np.log1p(-np.minimum(rates, 1.0 - rates))
    return 1.0 / (rates * (1.0 - rates)) - 1.0


def knapsack(rates: np.ndarray, has_history: np.ndarray, params: KnapsackParams = DEFAULTS) -> Allocation:
    """Share a budget of rollouts among tasks.

    A task without a history has `n`; it counts as one of rate 0 where budget is spread, whatever its rate.

    Args:
        rates: `[N]` float64 in [0, 1], success rates.
        has_history: `[N]` bool, the rate is worth something.
        params: budget, limits and solver.

    Returns:
        Rollouts that sum to the total.

    Raises:
        BadConfig: the total cannot be met: it is below what tasks have at least, or no task may take more.
        ValueError: a rate that counts is not in [0, 1]; names the row.

    Source: Knapsack RL (2025) as its code computes it. Deviations: `greedy` also credits a task for the rollouts it has
        at least, as the paper does; where every task is effective, budget to spare stays with the solver, which in the
        code is a division by 0.
    """
    rates = np.where(has_history, rates, 0.0)
    bad = ~((rates >= 0) & (rates <= 1))
    if bad.any():
        raise ValueError(f"row {int(np.argmax(bad))}: its success rate is not in [0, 1]")
    effective, unsolved = (rates > 0) & (rates < 1), rates == 0
    rollouts = np.select(
        [~has_history, effective, unsolved], [params.n, params.min_n, params.negative_n], params.positive_n
    ).astype(np.int64)
    total = params.n * len(rates) if params.total_budget is None else params.total_budget
    left, fallback, ratio = total - int(rollouts.sum()), False, 1.0
    if effective.any():
        needed = int(np.floor(np.minimum(params.max_n, rollout_cost(rates[effective], params))).sum())
        if params.allow_fallback and needed < left and not effective.all():
            fallback, ratio = True, needed / left
            _spread(rollouts, left - needed, over=unsolved if unsolved.any() else ~effective)
            left = needed
        solve = _greedy if params.solver == "greedy" else _programme
        room = params.max_n - params.min_n
        placed = min(max(left, 0), room * int(effective.sum()))
        rollouts[effective] += solve(rates[effective], placed, params)
        _spread(rollouts, left - placed, over=effective)
    elif left > 0 and unsolved.any():
        _spread(rollouts, left, over=unsolved)
    elif left > 0:
        rollouts[:] = params.n
    if rollouts.sum() != total:
        raise BadConfig(
            f"a total budget of {total} rollouts cannot be met, {rollouts.sum()} are assigned",
            remedy="give a total that is no less than all tasks have at least, or leave it to n for each",
        )
    value = float(rollout_value(rollouts[effective], rates[effective]).sum())
    return Allocation(rollouts, effective, fallback, ratio, value)


def _spread(rollouts: np.ndarray, amount: int, *, over: np.ndarray) -> None:
    """Add an amount to some tasks in equal parts, what is left over to the first of them."""
    if amount > 0:
        rows = np.flatnonzero(over)
        share, rest = divmod(amount, len(rows))
        rollouts[rows] += share
        rollouts[rows[:rest]] += 1


def _greedy(rates: np.ndarray, budget: int, params: KnapsackParams) -> np.ndarray:
    """Extras of each task that add most to the total value; of equals the task with fewer, then the first, gains."""
    extras, room = [0] * len(rates), params.max_n - params.min_n
    known = rates.tolist()
    waiting = [(-_gain(rate, params.min_n), 0, row) for row, rate in enumerate(known)] if room else []
    heapq.heapify(waiting)
    for _ in range(budget):
        row = waiting[0][2]
        extras[row] += 1
        if extras[row] < room:
            heapq.heapreplace(waiting, (-_gain(known[row], params.min_n + extras[row]), extras[row], row))
        else:
            heapq.heappop(waiting)
    return np.array(extras, dtype=np.int64)


def _gain(rate: float, rollouts: int) -> float:
    """What one rollout more adds to the value; the difference, written so that it never cancels out."""
    both = rate**rollouts * (1.0 - rate) + (1.0 - rate) ** rollouts * rate
    return both * rate * (1.0 - rate) ** 2


def _programme(rates: np.ndarray, budget: int, params: KnapsackParams) -> np.ndarray:
    """Extras of each task as the official code finds them: 0 is worth nothing, one or more the whole value; the first
    best choice stays, the smallest first. All budgets are settled at once."""
    room = min(params.max_n - params.min_n, budget)
    best = np.full(budget + 1, -np.inf)
    best[0] = 0.0
    choice = np.zeros((len(rates), budget + 1), dtype=np.int32)
    values = rollout_value(params.min_n + np.arange(1, room + 1), rates[:, None])
    for row, value in enumerate(values):
        before = best.copy()
        for extra in range(1, room + 1):
            reached = before[: budget + 1 - extra] + value[extra - 1]
            better = np.flatnonzero(reached > best[extra:]) + extra
            best[better] = reached[better - extra]
            choice[row, better] = extra
    extras = np.zeros(len(rates), dtype=np.int64)
    for row in range(len(rates) - 1, -1, -1):
        extras[row] = choice[row, budget]
        budget -= extras[row]
    return extras
