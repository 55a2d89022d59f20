"""Draws a comparison: a heat map of who agrees with whom, and bars beside it. Knows not what is compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pipeline.comparison.lines import Figure
from pipeline.png import save_png

BLUE, ORANGE, GREY, PALE = "#0072B2", "#E69F00", "#555555", "#dddddd"
"""The first two are of the palette of Okabe and Ito, which all eyes tell apart."""


@contextmanager
def drawn_into(path: Path, *, title: str, rows: int, row_height: float, bars: bool) -> Iterator[tuple]:
    """A figure with a panel for the heat map and, if there are bars, one for them; written once they are drawn.

    Args:
        path: of the PNG, which is replaced at once.
        row_height: inches.

    Raises:
        OSError: it cannot be written there.
    """
    from matplotlib.figure import Figure as Canvas

    side = 2.6 + row_height * max(4, rows)
    figure = Canvas(figsize=(side + (4.2 if bars else 1.0), side), layout="constrained")
    figure.suptitle(title, fontsize=11)
    yield figure.subplots(1, 1 + bars, squeeze=False, width_ratios=[side, 3.5] if bars else None)[0]
    save_png(figure, path)


def draw_heat_map(axes, values: np.ndarray, *, names: Sequence[str], others: Sequence[str], title: str) -> None:
    """Draw agreements in [-1, 1].

    Args:
        values: `[R, C]`; NaN is hatched, and the diagonal grey.
        names: `[R]`, from above. others: `[C]`.
    """
    axes.patch.set(hatch="////", edgecolor="#cccccc", facecolor="white")
    drawn = axes.imshow(np.ma.masked_invalid(values), cmap="PuOr", vmin=-1, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if row == column:
            axes.fill_between((row - 0.5, row + 0.5), row - 0.5, row + 0.5, color=PALE)
        elif not np.isnan(value):
            text = f"{value:.2f}".replace("0.", ".", 1)
            colour = "white" if abs(value) > 0.65 else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(others)), others, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.tick_params(length=0)
    axes.set_title(title, fontsize=10)
    colours = {"location": "bottom", "shrink": 0.45, "aspect": 40, "pad": 0.02, "ticks": (-1, -0.5, 0, 0.5, 1)}
    axes.figure.colorbar(drawn, ax=axes, **colours)


def draw_bars(axes, series: Mapping[str, Sequence[Figure | None]], *, title: str) -> None:
    """Draw figures in [0, 1] with their intervals, in the rows of the heat map.

    Args:
        series: one or two, by name, of `[R]` figures; None and an undefined one have no bar.
    """
    height, rows = 0.68 / len(series), max(map(len, series.values()))
    for number, ((name, figures), colour) in enumerate(zip(series.items(), (BLUE, ORANGE), strict=False)):
        axes.barh([-2], [0], color=colour, label=name)
        for row, found in enumerate(figures):
            if found is None or found.value is None:
                continue
            at = row + (number - (len(series) - 1) / 2) * height * 1.1
            axes.barh(at, found.value, height=height, color=colour)
            if found.low is not None:
                axes.plot((found.low, found.high), (at, at), color="black", linewidth=1.2, marker="|", markersize=4)
            axes.text(1.02, at, f"{found.value:.2f}", va="center", fontsize=8)
    axes.axvline(0.5, color=GREY, linewidth=1, linestyle=":")
    axes.set_xlim(0, 1.18)
    axes.set_xticks((0, 0.25, 0.5, 0.75, 1), ("0", ".25", ".5", ".75", "1"), fontsize=8)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_yticks([])
    for edge in ("top", "right"):
        axes.spines[edge].set_visible(False)
    if len(series) > 1:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=2, fontsize=8, frameon=False)
    axes.set_title(title, fontsize=10)
