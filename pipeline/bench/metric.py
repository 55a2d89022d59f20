"""What a bench says: a figure with what it was divided from and what it was measured on. Knows no bench."""

from __future__ import annotations

from typing import NamedTuple

Params = dict[str, str | int | float | tuple[int, ...]]


class Metric(NamedTuple):
    """A figure.

    metric:      its name, stable over versions.
    value:       numerator / denominator; the denominator of a plain figure is 1.
    unit:        of the value; `x` for a ratio.
    params:      sizes and conditions of the measurement.
    """

    metric: str
    value: float
    numerator: float
    denominator: float
    unit: str
    params: Params


def ratio(name: str, numerator: float, denominator: float, *, unit: str, params: Params) -> Metric:
    """A figure that is one number over another."""
    return Metric(name, numerator / denominator, numerator, denominator, unit, params)


def figure(name: str, value: float, *, unit: str, params: Params) -> Metric:
    """A figure that stands for itself."""
    return Metric(name, value, value, 1, unit, params)
