"""A comparison as lines, one a thing compared, from rows of evaluations. Knows not what is compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import polars as pl

ABSENT = "-"


class Figure(NamedTuple):
    """A number of a report and its 95 % interval. count: tasks, attempts, steps or labels behind it.

    None: undefined, or no interval.
    """

    value: float | None
    count: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """What is known of a thing compared.

    figures: by metric; one that does not apply is not there.
    alike:   agreement with each of the others, by name.
    """

    name: str
    figures: dict[str, Figure] = field(default_factory=dict)
    alike: dict[str, Figure] = field(default_factory=dict)

    def value(self, metric: str) -> float | None:
        """A figure, if there is one."""
        return self.figures[metric].value if metric in self.figures else None


def lines_of(evals: pl.DataFrame, *, alike: str, best: str) -> list[Line]:
    """The lines of a round, the best first, then by name.

    Args:
        evals: `policy, metric, value, low, high, count` of a stage's rows.
        alike: how the metric of an agreement begins; the other's name follows.
        best: metric to order by.
    """
    found: dict[str, Line] = {}
    for name, metric, *numbers in evals.select("policy", "metric", "value", "count", "low", "high").iter_rows():
        line = found.setdefault(name, Line(name))
        kept = line.alike if metric.startswith(alike) else line.figures
        kept[metric.removeprefix(alike)] = Figure(*numbers)
    return sorted(found.values(), key=lambda line: (-(line.value(best) or 0.0), line.name))


def shown_metrics(lines: Sequence[Line], metrics: Mapping[str, str]) -> list[str]:
    """Those that any line has; the others have no column."""
    return [metric for metric in metrics if any(metric in line.figures for line in lines)]


def interval(figure: Figure | None) -> str:
    """An interval for people."""
    return ABSENT if figure is None or figure.low is None else f"{figure.low:.3f} to {figure.high:.3f}"


def legend(lines: Sequence[Line], metrics: Mapping[str, str], columns: Mapping[str, str]) -> list[str]:
    """What the columns of the table mean, a line each.

    Args:
        metrics: what each measures. columns: what the table calls it.
    """
    wide = max(map(len, columns.values()))
    return [f"{columns[metric]:<{wide}} {metrics[metric]}" for metric in shown_metrics(lines, metrics)]


def records(
    lines: Sequence[Line], metrics: Mapping[str, str], *, suite: str, round: str, named: str, alike: str
) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows for programs: every metric with its interval and count, null where it does not apply.

    Args:
        named, alike: what the columns of the name and of the agreements are called.
    """
    columns = ["suite", "round", named, *metrics, alike]
    rows = [
        [
            suite,
            round,
            line.name,
            *(line.figures[metric]._asdict() if metric in line.figures else None for metric in metrics),
            {other: figure._asdict() for other, figure in line.alike.items()},
        ]
        for line in lines
    ]
    return columns, rows
