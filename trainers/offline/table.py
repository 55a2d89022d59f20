"""The table and the picture of offline methods side by side."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import polars as pl

from pipeline.statistics import MeanInterval, difference_interval
from trainers.comparison_files import between, write_files
from trainers.offline.methods import START

GAIN = f"pass@1 less {START}"
VOTES = 3
"""Answers of a majority: as many as a pass of three roles costs."""
VOTED = f"majority@{VOTES}"
Figures = dict[str, MeanInterval]
"""By metric."""
COUNTS = (
    "answer_tokens",
    "rows",
    "steps",
    "passes",
    "trained_tokens",
    "positive_tokens",
    "train_seconds",
    "eval_seconds",
)
"""Figures that are shown without an interval."""


def table_of(figures: Mapping[tuple[str, int], Figures]) -> pl.DataFrame:
    """Means over seeds.

    Args:
        figures: of each method and seed.

    Returns:
        A row a method: `method`, `seeds`, and a column a metric; those that are not in COUNTS have `METRIC low` and
        `METRIC high` beside them: of several seeds Student's 95 % interval over seeds, of one its own over tasks.
    """
    metrics = list(dict.fromkeys(metric for found in figures.values() for metric in found))
    rows = []
    for method in dict.fromkeys(method for method, _ in figures):
        runs = [found for (name, _), found in figures.items() if name == method]
        row = {"method": method, "seeds": len(runs)}
        for metric in metrics:
            seen = [found[metric] for found in runs if metric in found]
            values = [one.mean for one in seen if one.mean is not None]
            if metric in COUNTS:
                row[metric] = sum(values) / len(values) if values else None
                continue
            mean, low, high = seen[0] if len(seen) == 1 else difference_interval(values)
            least = low if low is None or metric == GAIN else max(0.0, low)
            row |= {metric: mean, f"{metric} low": least, f"{metric} high": high}
        rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def markdown(table: pl.DataFrame) -> list[str]:
    """The table for people."""
    shown = [name for name in dict.fromkeys(("pass@1", GAIN, VOTED, _most(table))) if name in table.columns]
    counts = [name for name in COUNTS if name in table.columns]
    lines = [f"| {' | '.join(('method', 'seeds', *shown, *(name.replace('_', ' ') for name in counts)))} |"]
    lines.append("|---" * (2 + len(shown) + len(counts)) + "|")
    for row in table.iter_rows(named=True):
        cells = [row["method"], str(row["seeds"])]
        cells += [_cell(row[name], row[f"{name} low"], row[f"{name} high"]) for name in shown]
        cells += ["" if row[name] is None else f"{row[name]:,.{name == 'passes':d}f}" for name in counts]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def write_comparison(figures: Mapping[tuple[str, int], Figures], out: Path, *, suite: str) -> pl.DataFrame:
    """Write the table as CSV and Markdown, and the picture. Returns the table."""
    table = table_of(figures)
    title = f"{suite}: offline methods on held-out tasks, 95 % intervals"
    write_files(out, "offline", table=table, lines=markdown(table), draw=partial(draw, table, title=title))
    return table


def draw(table: pl.DataFrame, path: Path, *, title: str) -> None:
    """pass@1 and pass@k of each method with their intervals; a dashed line stands where training starts from."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names, shown = table["method"].to_list(), list(dict.fromkeys(("pass@1", _most(table))))
    figure = Figure(figsize=(1.5 + 4.0 * len(shown), 1.2 + 0.32 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    for metric, axes in zip(shown, figure.subplots(1, len(shown), sharey=True, squeeze=False)[0], strict=True):
        for place, row in enumerate(table.iter_rows(named=True)):
            value, low, high = (row[f"{metric}{end}"] for end in ("", " low", " high"))
            if value is None:
                continue
            if row["method"] == START:
                axes.axvline(value, color="#555555", linestyle="--", linewidth=1)
            error = None if low is None else [[value - low], [high - value]]
            axes.errorbar(value, place, xerr=error, fmt="o", color="#0072B2", markersize=4, linewidth=1.2)
        axes.set_yticks(range(len(names)), names, fontsize=9)
        axes.set_xlabel(metric)
        axes.grid(alpha=0.3)
    axes.invert_yaxis()
    figure.savefig(path, dpi=110)


def _most(table: pl.DataFrame) -> str:
    """The pass@k of the largest k."""
    return max(
        (name for name in table.columns if name.startswith("pass@") and name[5:].isdigit()),
        key=lambda name: int(name[5:]),
    )


def _cell(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if low is None else f"{value:.3f} ({between(low, high)})"
