"""What a run that trains a process reward model may be told. Loads nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import check_words
from trainers.recipes import RunRecipe

TARGETS = ("hard", "soft")


@dataclass(frozen=True, slots=True)
class PrmRecipe(RunRecipe):
    """A process reward model, a head on the policy's backbone. For billions of parameters take a rate near 1e-6.

    labels: labeller whose rows are learnt, or outcome_broadcast.
    target: hard|soft, the label that is learnt.
    max_length: attempts of more tokens are left out, never cut; none keeps all.
    seed:   of the head, and of the order of rows or packs.
    name:   of the model; none: of suite, round and labels.
    """

    learning_rate: float = 1e-3
    steps: int = 400
    batch_size: int = 32
    labels: str = "monte_carlo"
    target: str = "hard"
    max_length: int | None = None

    def check(self) -> None:
        """As of every run.

        Raises:
            BadConfig: names the field.
        """
        RunRecipe.check(self)
        check_words(self, target=TARGETS)
