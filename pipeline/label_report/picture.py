"""Draws the label report: who agrees with whom, and who with the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.comparison.lines import Line
from pipeline.comparison.picture import draw_bars, draw_heat_map, drawn_into

ORACLE = "oracle"
_BARS = {"AUC": "label_auc", "first error F1": "first_error_f1"}


def draw_labels(lines: Sequence[Line], path: Path, *, title: str) -> None:
    """Draw a heat map of Cohen's kappa, and beside it AUC and first-error F1 of each labeller with intervals.

    Both have the labellers in the order of the lines, from above. Without an oracle there are no bars. A kappa that is
    undefined is hatched.

    Args:
        path: of the PNG, which is replaced at once.

    Raises:
        OSError: it cannot be written there.
    """
    judged, names = any("label_auc" in line.figures for line in lines), [line.name for line in lines]
    others = [*names, *([ORACLE] if judged else [])]
    values = np.array([[_kappa(line, other) for other in others] for line in lines], np.float64)
    said = "Cohen's kappa over the steps both label\nhatched: undefined, or none in common"
    place = {"title": f"step labels of {title}", "rows": len(lines), "row_height": 0.5, "bars": judged}
    with drawn_into(path, **place) as panels:
        draw_heat_map(panels[0], values, names=names, others=others, title=said)
        if judged:
            series = {name: [line.figures.get(metric) for line in lines] for name, metric in _BARS.items()}
            said = "against the oracle,\n95 % interval over tasks; dotted: AUC of chance"
            draw_bars(panels[1], series, title=said)


def _kappa(line: Line, other: str) -> float | None:
    if other == ORACLE:
        return line.value("oracle_kappa")
    return line.alike[other].value if other in line.alike else None
