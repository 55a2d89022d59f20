"""The files of a comparison: its table as CSV and Markdown, and its picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from pipeline.store.write import disk_errors


def write_files(
    out: Path, name: str, *, table: pl.DataFrame, lines: Sequence[str], draw: Callable[[Path], None]
) -> None:
    """Write `name.csv`, `name.md` and `name.png` into a folder.

    Args:
        lines: the table for people.
        draw: draws the picture into a file.

    Raises:
        StoreFull: the disk refused.
    """
    with disk_errors(out, setting="--out"):
        out.mkdir(parents=True, exist_ok=True)
        table.write_csv(out / f"{name}.csv")
        (out / f"{name}.md").write_text("\n".join(lines) + "\n")
        draw(out / f"{name}.png")


def between(low: float | None, high: float | None) -> str:
    """An interval for people; empty where there is none."""
    return "" if low is None else f"{low:.3f} to {high:.3f}"
