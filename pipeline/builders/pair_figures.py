"""Figures of preference pairs: margins, lengths, what both answers begin with. Takes rows batch by batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import polars as pl

from pipeline.builders.packing import spans

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(slots=True)
class PairFigures:
    """What is kept of each pair is its margin and three lengths."""

    _margins: list[np.ndarray] = field(default_factory=list)
    _lengths: list[np.ndarray] = field(default_factory=list)

    def add(self, pairs: pl.DataFrame) -> None:
        """The next rows of the table `pairs`."""
        sides = [pairs[name].list.len().cast(pl.Int64).to_numpy() for name in ("chosen_ids", "rejected_ids")]
        self._margins.append(pairs["margin"].cast(pl.Float64).to_numpy())
        self._lengths.append(np.stack([*sides, shared_tokens(pairs)]))

    def figures(self) -> dict[str, float]:
        """By name: of margins mean, quantiles, and the share that is 0; lengths in tokens. Nothing of no pairs."""
        margins = np.concatenate([*self._margins, np.empty(0)])
        if not len(margins):
            return {}
        chosen, rejected, shared = np.concatenate(self._lengths, axis=1)
        found = {
            "pairs": len(margins),
            "margin_mean": margins.mean(),
            **{f"margin_q{round(100 * at):02d}": np.quantile(margins, at) for at in QUANTILES},
            "tied_share": (margins == 0).mean(),
            "chosen_longer_share": (chosen > rejected).mean(),
            "rejected_longer_share": (rejected > chosen).mean(),
            "mean_chosen_less_rejected_tokens": (chosen - rejected).mean(),
            "mean_shared_tokens": shared.mean(),
        }
        return {name: round(float(value), 6) for name, value in found.items()}


def shared_tokens(pairs: pl.DataFrame) -> np.ndarray:
    """`[N]` int64: tokens with which both answers of a pair begin."""
    sides = [pairs[name] for name in ("chosen_ids", "rejected_ids")]
    lengths = [side.list.len().cast(pl.Int64).to_numpy() for side in sides]
    both = np.minimum(*lengths)
    chosen, rejected = (
        side.explode().drop_nulls().to_numpy()[spans(np.cumsum(own) - own, both)]
        for side, own in zip(sides, lengths, strict=True)
    )
    place, pair = spans(np.zeros(len(both), np.int64), both), np.repeat(np.arange(len(both)), both)
    differ, found = chosen != rejected, both.copy()
    np.minimum.at(found, pair[differ], place[differ])
    return found
