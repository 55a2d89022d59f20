"""Draws the label report: who agrees with whom, and who with the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.label_report.lines import Line

BLUE, ORANGE, GREY, PALE = "#0072B2", "#E69F00", "#555555", "#dddddd"
"""Of the palette of Okabe and Ito, which all eyes tell apart."""
_BARS = {"label_auc": ("AUC", BLUE), "first_error_f1": ("first error F1", ORANGE)}
ORACLE = "oracle"


def draw_labels(lines: Sequence[Line], path: Path, *, title: str) -> None:
    """Draw a heat map of Cohen's kappa, and beside it AUC and first-error F1 of each labeller with intervals.

    Both have the labellers in the order of the lines, from above. Without an oracle there are no bars. A kappa that is
    undefined is hatched.

    Args:
        path: of the PNG, which is replaced at once.

    Raises:
        OSError: it cannot be written there.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    judged = any("label_auc" in line.figures for line in lines)
    side = 2.6 + 0.5 * max(4, len(lines))
    figure = Figure(figsize=(side + (4.2 if judged else 1.0), side), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"step labels of {title}", fontsize=11)
    panels = figure.subplots(1, 1 + judged, squeeze=False, width_ratios=[side, 3.6] if judged else None)[0]
    _kappas(figure, panels[0], lines, judged=judged)
    if judged:
        _bars(panels[1], lines)
    part = path.with_name(f".{path.name}.part")
    try:
        figure.savefig(part, dpi=110, format="png")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _kappas(figure, axes, lines: Sequence[Line], *, judged: bool) -> None:
    names = [line.labeller for line in lines]
    across = [*names, *([ORACLE] if judged else [])]
    values = np.full((len(lines), len(across)), np.nan)
    for row, line in enumerate(lines):
        for column, other in enumerate(across):
            found = line.figures.get("oracle_kappa") if other == ORACLE else line.alike.get(other)
            if found is not None and found.value is not None:
                values[row, column] = found.value
    axes.patch.set(hatch="////", edgecolor="#cccccc", facecolor="white")
    drawn = axes.imshow(np.ma.masked_invalid(values), cmap="PuOr", vmin=-1, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if row == column:
            axes.fill_between((row - 0.5, row + 0.5), row - 0.5, row + 0.5, color=PALE)
        elif not np.isnan(value):
            colour = "white" if abs(value) > 0.65 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(across)), across, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.tick_params(length=0)
    axes.set_title("Cohen's kappa over the steps both label\nhatched: undefined, or none in common", fontsize=10)
    figure.colorbar(drawn, ax=axes, location="bottom", shrink=0.45, aspect=40, pad=0.02, ticks=(-1, -0.5, 0, 0.5, 1))


def _bars(axes, lines: Sequence[Line]) -> None:
    for number, (metric, (name, colour)) in enumerate(_BARS.items()):
        axes.barh([-2], [0], color=colour, label=name)
        for row, line in enumerate(lines):
            found, at = line.figures.get(metric), row + (number - 0.5) * 0.38
            if found is None or found.value is None:
                continue
            axes.barh(at, found.value, height=0.34, color=colour)
            if found.low is not None:
                axes.plot((found.low, found.high), (at, at), color="black", linewidth=1.2, solid_capstyle="butt")
            axes.text(1.02, at, f"{found.value:.2f}", va="center", fontsize=8)
    axes.axvline(0.5, color=GREY, linewidth=1, linestyle=":")
    axes.set_xlim(0, 1.18)
    axes.set_xticks((0, 0.25, 0.5, 0.75, 1), ("0", ".25", ".5", ".75", "1"), fontsize=8)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_yticks([])
    for edge in ("top", "right"):
        axes.spines[edge].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=2, fontsize=8, frameon=False)
    axes.set_title("against the oracle,\n95 % interval over tasks; dotted: AUC of chance", fontsize=10)
