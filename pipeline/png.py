"""Writes a figure as a PNG that is small enough to be shown in a browser from within other data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = 256
"""Of the palette; the file is a third of one with all colours. Chosen to cover those there are: by how common they are,
what a heat map seldom has would be drawn in other colours than its scale. Then each is moved to the mean of those it
stands for."""


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure at 110 dots an inch; the file is replaced at once.

    Raises:
        OSError: it cannot be written.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(110)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    part = path.with_name(f".{path.name}.part")
    try:
        small = drawn.quantize(_COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
        small.save(part, "PNG", optimize=True)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
