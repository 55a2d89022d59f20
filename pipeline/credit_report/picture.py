"""Draws the credit report: who agrees with whom, and who with the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.credit_report.lines import Line

BLUE, GREY, PALE = "#0072B2", "#555555", "#dddddd"
"""The blue is of the palette of Okabe and Ito, which all eyes tell apart."""


def draw_report(lines: Sequence[Line], path: Path, *, title: str) -> None:
    """Draw a heat map of the rank correlations, and beside it the AUC of each method with its interval.

    Both have the methods in the order of the lines, from above. Without an oracle there are no bars.
    A correlation that is undefined, one of the two being constant, is hatched.

    Args:
        path: of the PNG, which is replaced at once.

    Raises:
        OSError: it cannot be written there.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    judged = any("oracle_auc" in line.figures for line in lines)
    side = 2.6 + 0.36 * max(4, len(lines))
    figure = Figure(figsize=(side + (4.2 if judged else 1.0), side), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"credit methods of {title}", fontsize=11)
    panels = figure.subplots(1, 1 + judged, squeeze=False, width_ratios=[side, 3.4] if judged else None)[0]
    _correlations(figure, panels[0], lines)
    if judged:
        _bars(panels[1], lines)
    part = path.with_name(f".{path.name}.part")
    try:
        figure.savefig(part, dpi=110, format="png")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _correlations(figure, axes, lines: Sequence[Line]) -> None:
    count, names = len(lines), [line.name for line in lines]
    values = np.full((count, count), np.nan)
    for row, line in enumerate(lines):
        for column, other in enumerate(lines):
            found = line.alike.get(other.policy)
            if found is not None and found.value is not None:
                values[row, column] = found.value
    axes.patch.set(hatch="////", edgecolor="#cccccc", facecolor="white")
    drawn = axes.imshow(np.ma.masked_invalid(values), cmap="PuOr", vmin=-1, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if row == column:
            axes.fill_between((row - 0.5, row + 0.5), row - 0.5, row + 0.5, color=PALE)
        elif not np.isnan(value):
            text = f"{value:.2f}".replace("0.", ".", 1)
            colour = "white" if abs(value) > 0.65 else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(count), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(count), names, fontsize=8)
    axes.tick_params(length=0)
    hatched = np.isnan(values[~np.eye(count, dtype=bool)]).any()
    note = "\nhatched: undefined, one of the two being constant there" if hatched else ""
    axes.set_title(f"Spearman's correlation over the steps both credit{note}", fontsize=10)
    figure.colorbar(drawn, ax=axes, location="bottom", shrink=0.45, aspect=40, pad=0.02, ticks=(-1, -0.5, 0, 0.5, 1))


def _bars(axes, lines: Sequence[Line]) -> None:
    for row, line in enumerate(lines):
        found = line.figures.get("oracle_auc")
        if found is None or found.value is None:
            continue
        axes.barh(row, found.value, height=0.62, color=BLUE)
        if found.low is not None:
            axes.plot((found.low, found.high), (row, row), color="black", linewidth=1.2, solid_capstyle="butt")
            for end in (found.low, found.high):
                axes.plot((end, end), (row - 0.17, row + 0.17), color="black", linewidth=1.2)
        axes.text(1.02, row, f"{found.value:.2f}", va="center", fontsize=8)
    axes.axvline(0.5, color=GREY, linewidth=1, linestyle=":")
    axes.set_xlim(0, 1.16)
    axes.set_xticks((0, 0.25, 0.5, 0.75, 1), ("0", ".25", ".5\nchance", ".75", "1"), fontsize=8)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_yticks([])
    for edge in ("top", "right"):
        axes.spines[edge].set_visible(False)
    axes.set_title("AUC against the oracle,\n95 % interval over tasks", fontsize=10)
