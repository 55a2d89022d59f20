"""The label report as lines, one a labeller, from rows of evaluations, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import polars as pl

from pipeline.comparison import lines as compared
from pipeline.comparison.lines import ABSENT, Line, interval, shown_metrics
from pipeline.label_report import KAPPA, METRICS

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

legend = partial(compared.legend, metrics=METRICS, columns=COLUMNS)
records = partial(compared.records, metrics=METRICS, named="labeller", alike="kappa_with")


def lines_of(evals: pl.DataFrame) -> list[Line]:
    """The lines of a round, by labeller; the best against the oracle first, then by name.

    Args:
        evals: `policy, metric, value, low, high, count` of the stage's rows.
    """
    named = evals.with_columns(pl.col("policy").str.strip_prefix("step_labels/"))
    return compared.lines_of(named, alike=KAPPA, best="label_auc")


def table(lines: Sequence[Line]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows for people; a metric that no line has has no column."""
    shown = shown_metrics(lines, METRICS)
    columns = ["labeller"]
    for metric in shown:
        columns += [COLUMNS[metric], *(["95 % interval"] if metric in WITH_INTERVAL else [])]
    rows = []
    for line in lines:
        row: list[Any] = [line.name]
        for metric in shown:
            value = line.value(metric)
            row.append(ABSENT if value is None else f"{value:.1f}" if metric == "tokens_per_label" else f"{value:.3f}")
            row += [interval(line.figures.get(metric))] if metric in WITH_INTERVAL else []
        labels = line.figures.get("undecided_share")
        rows.append([*row, labels.count if labels else 0])
    return [*columns, "labels"], rows
