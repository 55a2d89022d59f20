"""What a run that trains a process reward model may be told. Loads nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import BadConfig, check_counts, check_words
from trainers.recipes import check_run

TARGETS = ("hard", "soft")


@dataclass(frozen=True, slots=True)
class PrmRecipe:
    """Defaults suit a model of a million parameters; for billions take a rate near 1e-6.

    labels: labeller whose rows are learnt, or outcome_broadcast.
    target: hard|soft, the label that is learnt.
    name: of the model; none: of suite, round and labels.
    learning_rate: at its peak, AdamW, of backbone and head.
    steps: optimiser steps; the rows are gone through as often as it takes.
    batch_size: attempts a step and device.
    warmup_ratio: share of the steps over which the rate rises; then it falls to 0.
    max_length: attempts of more tokens are left out, never cut; none keeps all.
    seed: of the head and of the order of the rows.
    checkpoint_every: steps between checkpoints, from which a killed run goes on.

    Raises:
        BadConfig: a number no run can use, or there is no such target.
    """

    labels: str = "monte_carlo"
    target: str = "hard"
    name: str = ""
    learning_rate: float = 1e-3
    steps: int = 400
    batch_size: int = 32
    warmup_ratio: float = 0.1
    max_length: int | None = None
    seed: int = 0
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        check_words(self, of="prm", target=TARGETS)
        check_counts(self, of="prm", steps=1, batch_size=1, checkpoint_every=1)
        check_run(self, of="prm")
        if not 0 <= self.warmup_ratio < 1:
            raise BadConfig(f"prm warmup_ratio is {self.warmup_ratio}", remedy="choose 0 <= ratio < 1")
