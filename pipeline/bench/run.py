"""Runs benches on one forest in a temporary folder, and prints what they say. Knows no bench."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table

from pipeline.bench import BENCHES, ON_ENGINES
from pipeline.bench.forest import StoredForest
from pipeline.bench.metric import Metric, Params
from pipeline.bench.shape import Shape, Sizes
from pipeline.report import OnProgress, Progress

PRINTED_WIDTH = 160
"""Columns of the table where no terminal has a width."""


def run_benches(
    names: Sequence[str], shape: Shape, on_progress: OnProgress, *, sizes: Sizes = Sizes(), engine: str = ""
) -> Iterator[Metric]:
    """The metrics of some benches, in turn, each as soon as it is known.

    Args:
        names: keys of BENCHES.
        shape: the forest that all of them see.
        on_progress: told before every bench.
        sizes: of what else they draw.
        engine: measured too by the benches that can ask it; key of ON_ENGINES' values. Empty: none.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="branchpoint-bench-") as folder:
        forest = StoredForest(Path(folder), shape, sizes)
        for done, name in enumerate(names):
            on_progress(Progress("bench", "benches", done, len(names), 0, 0, time.monotonic() - start))
            for module in (BENCHES[name], ON_ENGINES.get(name, {}).get(engine)):
                if module is not None:
                    yield from import_module(module).measure(forest)


def print_metrics(metrics: Sequence[Metric], shape: Shape, *, to: TextIO) -> None:
    """Print metrics as a table, to four digits; what they say of the forest stands above it once."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("metric", "value", "unit", "from"):
        table.add_column(name, justify="left" if name in ("metric", "unit") else "right", no_wrap=True)
    table.add_column("on", overflow="fold")
    for metric in metrics:
        own = {name: value for name, value in metric.params.items() if (name, value) not in shape.params().items()}
        divided = f"{_digits(metric.numerator)} / {_digits(metric.denominator)}" if metric.denominator != 1 else ""
        table.add_row(metric.metric, _digits(metric.value), metric.unit, divided, _spelt(own))
    console = Console(file=to, highlight=False, markup=False)
    if not console.is_terminal:
        console.width = PRINTED_WIDTH
    if any(shape.params().items() <= metric.params.items() for metric in metrics):
        console.print(f"forest: {_spelt(shape.params())}")
    console.print(table)


def _spelt(params: Params) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in params.items())


def _digits(number: float) -> str:
    return f"{float(f'{number:.4g}'):,.10g}" if isinstance(number, float) else f"{number:,}"
