"""Draws an online run, round by round, and runs against each other. Needs matplotlib alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.png import save_png

if TYPE_CHECKING:
    import polars as pl

    from trainers.online.compare import Curve

PANELS = {
    "pass@1": "pass@1 on held-out tasks",
    "score": "mean score of held-out episodes",
    "reward": "mean reward of the rollouts",
    "answer_tokens": "tokens an answer",
    "entropy": "entropy (nats a token)",
    "kl": "KL of the update (nats a token)",
    "clip_share": "share of tokens clipped",
    "zero_advantage_share": "share of attempts without advantage",
    "oracle_auc": "credit against the oracle (AUC)",
    "step_score": "mean score of a step",
}


def draw_rounds(seen: Sequence[Mapping[str, float | None]], path: Path, *, title: str) -> None:
    """One panel a figure that any round has, against the number of the round.

    Args:
        seen: figures of the rounds in order.
        path: of the picture, a PNG.
        title: above all.
    """
    names = [name for name in PANELS if any(one.get(name) is not None for one in seen)]
    figure = Figure(figsize=(4.0 * min(3, len(names)), 2.8 * -(-len(names) // 3)), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(-(-len(names) // 3), min(3, len(names)), squeeze=False)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for name, axes in zip(names, grid.flat, strict=False):
        points = [(number, one[name]) for number, one in enumerate(seen) if one.get(name) is not None]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1)
        axes.set_title(PANELS[name], fontsize=9)
        axes.set_xlabel("round")
        axes.set_xlim(-0.5, len(seen) - 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
    save_png(figure, path)


def draw_curves(table: pl.DataFrame, curves: Mapping[tuple[str, int], Curve], path: Path, *, title: str) -> None:
    """Learning curves: the mean and interval of each recipe against tokens, and every run against time.

    Args:
        table: as `trainers.online.compare.table_of`.
        curves: by recipe and seed.
        path: of the picture, a PNG.
        title: above all.
    """
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    figure.suptitle(title)
    by_tokens, by_time = figure.subplots(1, 2, sharey=True)
    for number, ((name,), rows) in enumerate(table.group_by("recipe", maintain_order=True)):
        color = f"C{number % 10}"
        by_tokens.plot(rows["tokens"], rows["pass@1"], color=color, label=name, linewidth=1.5)
        if rows["low"].null_count() == 0:
            by_tokens.fill_between(rows["tokens"], rows["low"], rows["high"], color=color, alpha=0.15, linewidth=0)
        for curve in (curve for (one, _), curve in curves.items() if one == name):
            known = curve.passed == curve.passed
            by_time.plot(curve.seconds[known], curve.passed[known], color=color, alpha=0.6, linewidth=0.8)
    by_tokens.set_xlabel("tokens decoded in training")
    by_tokens.xaxis.set_major_formatter("{x:,.0f}")
    by_time.set_xlabel("seconds of training")
    by_tokens.legend(fontsize=8, frameon=False)
    for axes in (by_tokens, by_time):
        axes.grid(alpha=0.3)
    save_png(figure, path)
