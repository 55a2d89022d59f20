"""The credit report as lines, one a method or labeller, from rows of evaluations, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from pipeline.credit_report import METRICS, SPEARMAN
from pipeline.credit_report.scores import Figure

COLUMNS = {
    "oracle_auc": "AUC",
    "first_error_accuracy": "first error",
    "calibration_error": "calibration",
    "zero_share": "zero",
    "degenerate_share": "degenerate",
    "resample_spread": "spread",
    "extra_tokens_per_1k": "tokens/1k",
    "extra_passes_per_1k": "passes/1k",
}
"""What the table calls each metric."""
ABSENT = "-"


@dataclass(frozen=True, slots=True)
class Line:
    """What is known of a method or labeller.

    policy:  its name, as in the table of evaluations.
    figures: by metric; one that does not apply is not there.
    alike:   rank correlation with each of the others, by name.
    """

    policy: str
    figures: dict[str, Figure] = field(default_factory=dict)
    alike: dict[str, Figure] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Short: a method's own, a labeller's with its table."""
        return self.policy.removeprefix("credit/")

    def value(self, metric: str) -> float | None:
        """A figure, if there is one."""
        return self.figures[metric].value if metric in self.figures else None

    @property
    def steps(self) -> int:
        """Steps credited or labelled; 0 where nothing was counted by steps."""
        counted = [self.figures[name].count for name in ("zero_share", "extra_tokens_per_1k") if name in self.figures]
        return max(counted, default=0)


def lines_of(evals: pl.DataFrame) -> list[Line]:
    """The lines of a round, the best against the oracle first, then by name.

    Args:
        evals: `policy, metric, value, low, high, count` of the stage's rows.
    """
    found: dict[str, Line] = {}
    for policy, metric, *numbers in evals.select("policy", "metric", "value", "count", "low", "high").iter_rows():
        line = found.setdefault(policy, Line(policy))
        kept = line.alike if metric.startswith(SPEARMAN) else line.figures
        kept[metric.removeprefix(SPEARMAN)] = Figure(*numbers)
    return sorted(found.values(), key=lambda line: (-(line.value("oracle_auc") or 0.0), line.policy))


def table(lines: Sequence[Line]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows for people; a metric that no line has has no column."""
    shown = [metric for metric in METRICS if any(metric in line.figures for line in lines)]
    columns = ["method"]
    for metric in shown:
        columns += [COLUMNS[metric], *(["95 % interval"] if metric == "oracle_auc" else [])]
    rows = []
    for line in lines:
        row: list[Any] = [line.name]
        for metric in shown:
            figure = line.figures.get(metric)
            row.append(_short(metric, figure))
            if metric == "oracle_auc":
                row.append(ABSENT if figure is None or figure.low is None else f"{figure.low:.3f} to {figure.high:.3f}")
        rows.append([*row, line.steps])
    return [*columns, "steps"], rows


def legend(lines: Sequence[Line]) -> list[str]:
    """What the columns of the table mean, a line each."""
    return [
        f"{COLUMNS[metric]:<12} {meaning}"
        for metric, meaning in METRICS.items()
        if any(metric in line.figures for line in lines)
    ]


def records(lines: Sequence[Line], *, suite: str, round: str) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows for programs: every metric with its interval and count, null where it does not apply."""
    columns = ["suite", "round", "policy", *METRICS, "spearman"]
    rows = [
        [
            suite,
            round,
            line.policy,
            *(line.figures[metric]._asdict() if metric in line.figures else None for metric in METRICS),
            {other: figure._asdict() for other, figure in line.alike.items()},
        ]
        for line in lines
    ]
    return columns, rows


def _short(metric: str, figure: Figure | None) -> str | int:
    if figure is None:
        return ABSENT
    if figure.value is None:
        return "unknown"
    return round(figure.value) if metric.startswith("extra_") else f"{figure.value:.3f}"
