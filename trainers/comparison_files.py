"""The files of a comparison: its table as CSV and Markdown, and its picture; what is refused before it begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from pipeline.errors import BadConfig
from pipeline.store.write import disk_errors
from trainers.recipes import SEEDS


def open_comparison(out: Path, *, last_seed: int) -> None:
    """Refuse what cannot be before anything is paid, and make the folder.

    Raises:
        BadConfig: there is no such seed.
        StoreFull: the disk refused.
    """
    if last_seed >= SEEDS:
        raise BadConfig(f"the last seed is {last_seed}", remedy=f"let it stay below {SEEDS}")
    with disk_errors(out, setting="--out"):
        out.mkdir(parents=True, exist_ok=True)


def write_files(
    out: Path, name: str, *, table: pl.DataFrame, lines: Sequence[str], draw: Callable[[Path], None]
) -> None:
    """Write `name.csv`, `name.md` and `name.png` into a folder that is there.

    Args:
        lines: the table for people.
        draw: draws the picture into a file.

    Raises:
        StoreFull: the disk refused.
    """
    with disk_errors(out, setting="--out"):
        table.write_csv(out / f"{name}.csv")
        (out / f"{name}.md").write_text("\n".join(lines) + "\n")
        draw(out / f"{name}.png")


def between(low: float | None, high: float | None) -> str:
    """An interval for people; empty where there is none."""
    return "" if low is None else f"{low:.3f} to {high:.3f}"
