"""Vectors of ProcessBench: a label and a prediction a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.golden.nodes import numbers
from pipeline.metrics.processbench import processbench, report


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Of all rows; and by subset where they name one. A row without a prediction is wrong."""
    rows = given["rows"]
    labels, predictions = numbers(rows, "label").astype(np.int64), numbers(rows, "prediction")
    found = processbench(labels, predictions)._asdict()
    if rows and all(row.get("subset") is not None for row in rows):
        subsets = report(labels, predictions, np.array([row["subset"] for row in rows]))
        scores = {name: score._asdict() for name, score in subsets.scores.items()}
        found |= {"subsets": scores, "mean_f1": subsets.mean_f1}
    return found
