"""Draws the credit report: who agrees with whom, and who with the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.comparison.lines import Line
from pipeline.comparison.picture import draw_bars, draw_heat_map, drawn_into
from pipeline.credit_report.lines import short_name


def draw_report(lines: Sequence[Line], path: Path, *, title: str) -> None:
    """Draw a heat map of the rank correlations, and beside it the AUC of each method with its interval.

    Both have the methods in the order of the lines, from above. Without an oracle there are no bars.
    A correlation that is undefined, one of the two being constant, is hatched.

    Args:
        path: of the PNG, which is replaced at once.

    Raises:
        OSError: it cannot be written there.
    """
    values = np.array([[_value(line, other) for other in lines] for line in lines], np.float64)
    values = values.reshape(len(lines), len(lines))
    hatched = np.isnan(values[~np.eye(len(lines), dtype=bool)]).any()
    note = "\nhatched: undefined, one of the two being constant there" if hatched else ""
    said, names = f"Spearman's correlation over the steps both credit{note}", [short_name(line) for line in lines]
    judged = any("oracle_auc" in line.figures for line in lines)
    place = {"title": f"credit methods of {title}", "rows": len(lines), "row_height": 0.36, "bars": judged}
    with drawn_into(path, **place) as panels:
        draw_heat_map(panels[0], values, names=names, others=names, title=said)
        if judged:
            aucs = [line.figures.get("oracle_auc") for line in lines]
            draw_bars(
                panels[1], {"AUC": aucs}, title="AUC against the oracle,\n95 % interval over tasks; dotted: chance"
            )


def _value(line: Line, other: Line) -> float | None:
    return line.alike[other.name].value if other.name in line.alike else None
