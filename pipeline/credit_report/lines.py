"""The credit report as lines, one a method or labeller, from rows of evaluations, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from pipeline.comparison import lines as compared
from pipeline.comparison.lines import ABSENT, Figure, Line, interval, shown_metrics
from pipeline.credit_report import METRICS, SPEARMAN

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

lines_of = partial(compared.lines_of, alike=SPEARMAN, best="oracle_auc")
"""The lines of a round, named as in the table of evaluations: `credit/METHOD` or `step_labels/LABELLER`."""
legend = partial(compared.legend, metrics=METRICS, columns=COLUMNS)
records = partial(compared.records, metrics=METRICS, named="policy", alike="spearman")


def short_name(line: Line) -> str:
    """A method's own name, a labeller's with its table."""
    return line.name.removeprefix("credit/")


def table(lines: Sequence[Line]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows for people; a metric that no line has has no column."""
    shown = shown_metrics(lines, METRICS)
    columns = ["method"]
    for metric in shown:
        columns += [COLUMNS[metric], *(["95 % interval"] if metric == "oracle_auc" else [])]
    rows = []
    for line in lines:
        row: list[Any] = [short_name(line)]
        for metric in shown:
            figure = line.figures.get(metric)
            row += [_short(metric, figure), *([interval(figure)] if metric == "oracle_auc" else [])]
        rows.append([*row, _steps(line)])
    return [*columns, "steps"], rows


def _steps(line: Line) -> int:
    """Steps credited or labelled; 0 where nothing was counted by steps."""
    counted = [line.figures[name].count for name in ("zero_share", "extra_tokens_per_1k") if name in line.figures]
    return max(counted, default=0)


def _short(metric: str, figure: Figure | None) -> str | int:
    if figure is None:
        return ABSENT
    if figure.value is None:
        return "unknown"
    return round(figure.value) if metric.startswith("extra_") else f"{figure.value:.3f}"
