"""Finds the plan of a round and what came of it in a store, and prints them."""

from __future__ import annotations

from typing import TextIO

from pipeline import show
from pipeline.comparison.ask import find_round
from pipeline.plan import FIGURES
from pipeline.plan.lines import Line, Plan, cost_lines, read_plan
from pipeline.stages.plan import STAGE
from pipeline.stages.work import Work
from pipeline.store.store import Store

_COUNTS = 100
"""Figures from here on are shown without decimals."""


def ask_cost(store: Store, *, suite: str | None, round: str | None, as_json: bool, to: TextIO) -> None:
    """Print what a round was planned to take beside what it took, a line a figure.

    Raises:
        BadConfig: there is no such round, or several.
    """
    costly = (*store.places("requests"), *store.places("evals", stage=STAGE))
    suite, round = find_round(store, costly, suite=suite, round=round, what="costs", command="branchpoint plan")
    plan = read_plan(store, suite=suite, round=round)
    lines = cost_lines(store, suite=suite, round=round, plan=plan)
    if as_json:
        rows = [(suite, round, None if plan is None else plan.pilot, *line) for line in lines]
        show.print_json(("suite", "round", "pilot", *Line._fields), rows, to=to)
        return
    print(f"cost of suite {suite}, round {round}; {_basis(plan, suite, round)}", file=to)
    show.print_table(("figure", "plan", "95 % interval", "actual", ""), [_cells(line) for line in lines], to=to)


def print_stored(work: Work, *, as_json: bool, to: TextIO) -> None:
    """Print a round's plan, and what came of it so far."""
    ask_cost(work.store, suite=work.suite.name, round=work.round, as_json=as_json, to=to)


def _basis(plan: Plan | None, suite: str, round: str) -> str:
    if plan is None:
        return f"no plan: `branchpoint plan --suite {suite} --round {round}` makes one before a round"
    by = " and ".join(filter(None, (plan.config.strategy, plan.config.rule)))
    return f"planned by {by} from a pilot of {plan.pilot} of {plan.tasks:,} tasks"


def _cells(line: Line) -> tuple[str, ...]:
    interval = "" if line.low is None else f"{_number(line.low)} to {_number(line.high)}"
    return (line.figure, _number(line.plan), interval, _number(line.actual), FIGURES.get(line.figure, ""))


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= _COUNTS else f"{value:,.4g}"
