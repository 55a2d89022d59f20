"""The label report as lines, one a labeller, from rows of evaluations, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from pipeline.label_report import KAPPA, METRICS
from pipeline.label_report.measure import Figure

COLUMNS = {
    "label_auc": "AUC",
    "first_error_f1": "first error F1",
    "oracle_kappa": "kappa",
    "labelled_share": "labelled",
    "undecided_share": "undecided",
    "tokens_per_label": "tokens/label",
}
"""What the table calls each metric."""
WITH_INTERVAL = ("label_auc", "first_error_f1", "oracle_kappa")
ABSENT = "-"
_OF = "step_labels/"


@dataclass(frozen=True, slots=True)
class Line:
    """What is known of a labeller. figures: by metric. alike: kappa with each of the others, by name."""

    labeller: str
    figures: dict[str, Figure] = field(default_factory=dict)
    alike: dict[str, Figure] = field(default_factory=dict)


def lines_of(evals: pl.DataFrame) -> list[Line]:
    """The lines of a round, the best against the oracle first, then by name.

    Args:
        evals: `policy, metric, value, low, high, count` of the stage's rows.
    """
    found: dict[str, Line] = {}
    for policy, metric, *numbers in evals.select("policy", "metric", "value", "count", "low", "high").iter_rows():
        name = policy.removeprefix(_OF)
        line = found.setdefault(name, Line(name))
        kept = line.alike if metric.startswith(KAPPA) else line.figures
        kept[metric.removeprefix(KAPPA)] = Figure(*numbers)
    return sorted(found.values(), key=lambda line: (-(_value(line, "label_auc") or 0.0), line.labeller))


def table(lines: Sequence[Line]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows for people; a metric that no line has has no column."""
    shown = [metric for metric in METRICS if any(metric in line.figures for line in lines)]
    columns = ["labeller"]
    for metric in shown:
        columns += [COLUMNS[metric], *(["95 % interval"] if metric in WITH_INTERVAL else [])]
    rows = []
    for line in lines:
        row: list[Any] = [line.labeller]
        for metric in shown:
            figure = line.figures.get(metric)
            value = None if figure is None else figure.value
            row.append(ABSENT if value is None else f"{value:.1f}" if metric == "tokens_per_label" else f"{value:.3f}")
            if metric in WITH_INTERVAL:
                known = figure is not None and figure.low is not None
                row.append(f"{figure.low:.3f} to {figure.high:.3f}" if known else ABSENT)
        labels = line.figures.get("undecided_share")
        rows.append([*row, labels.count if labels else 0])
    return [*columns, "labels"], rows


def legend(lines: Sequence[Line]) -> list[str]:
    """What the columns of the table mean, a line each."""
    return [
        f"{COLUMNS[metric]:<14} {meaning}"
        for metric, meaning in METRICS.items()
        if any(metric in line.figures for line in lines)
    ]


def records(lines: Sequence[Line], *, suite: str, round: str) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows for programs: every metric with its interval and count, null where it does not apply."""
    columns = ["suite", "round", "labeller", *METRICS, "kappa_with"]
    rows = [
        [
            suite,
            round,
            line.labeller,
            *(line.figures[metric]._asdict() if metric in line.figures else None for metric in METRICS),
            {other: figure._asdict() for other, figure in line.alike.items()},
        ]
        for line in lines
    ]
    return columns, rows


def _value(line: Line, metric: str) -> float | None:
    return line.figures[metric].value if metric in line.figures else None
