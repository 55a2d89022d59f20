"""Recipes: what a run of training may be told. Read by commands, the launchpad and trainers; loads nothing heavy."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from pipeline.errors import BadConfig

DPO_LOSSES = ("sigmoid", "robust", "hinge", "ipo", "sigmoid_norm")
"""TRL's words."""
TDPO_LOSSES = ("tdpo1", "tdpo2")
AMPLIFIED = "retry_rows"
SFT_ROWS = ("best_answers", "role_rows", "rationales", AMPLIFIED)
SEEDS = 2**32
"""As many as the generators of all libraries take."""


class Named(Protocol):
    """What all recipes have."""

    name: str
    learning_rate: float
    seed: int


def check_run(recipe: Named, *, of: str = "") -> None:
    """Refuse a rate, a seed or a name that no run can have.

    Args:
        of: whose they are, for print.

    Raises:
        BadConfig: names the field.
    """
    for name, met, bounds in (
        ("learning_rate", 0 < recipe.learning_rate <= 1, "above 0 and at most 1"),
        ("seed", 0 <= recipe.seed < SEEDS, f"at least 0 and below {SEEDS}"),
        (
            "name",
            re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9_.-]*)?", recipe.name),
            "to letters, digits, '_', '-' and '.', beginning with a letter or digit",
        ),
    ):
        if not met:
            raise BadConfig(f"{of} {name} is {getattr(recipe, name)!r}".lstrip(), remedy=f"set {name} {bounds}")


@dataclass(frozen=True, slots=True)
class RunRecipe:
    """What every run shares. Defaults suit a policy of about a million parameters on two cores.

    learning_rate: at its peak, AdamW.
    steps:         optimiser steps; the rows are gone through as often as it takes.
    batch_size:    rows a step and device; of a pack, at most.
    warmup_ratio:  share of the steps over which the rate rises; then it falls to 0.
    seed:          of the order of rows or packs.
    packed:        tokens that rows share are computed once.
    max_tokens:    unique tokens of a pack.
    accumulate:    packs or batches a step.
    checkpoint_every: steps between checkpoints, from which a killed run goes on; also between evaluations.
    held_out:      share of the tasks whose rows are kept for evaluation; the best checkpoint by them is kept.
    patience:      evaluations without a better held-out loss after which the run ends; 0: it runs to its end.
    gradient_checkpointing: compute activations twice rather than keep them.
    bf16:          compute in bfloat16; weights and optimiser stay float32.
    lora_rank:     of adapters that are trained in place of the weights and merged at the end; 0: all weights.
    name:          of the policy, behind suite and round; empty: that of the method.
    """

    learning_rate: float = 1e-4
    steps: int = 100
    batch_size: int = 16
    warmup_ratio: float = 0.1
    seed: int = 0
    packed: bool = True
    max_tokens: int = 8192
    accumulate: int = 1
    checkpoint_every: int = 100
    held_out: float = 0.0
    patience: int = 0
    gradient_checkpointing: bool = False
    bf16: bool = False
    lora_rank: int = 0
    name: str = ""

    def check(self) -> None:
        """Refuse numbers no run can use.

        Raises:
            BadConfig: names the field.
        """
        check_run(self)
        for name in ("steps", "batch_size", "max_tokens", "accumulate", "checkpoint_every"):
            self.require(getattr(self, name) > 0, name, "above 0")
        for name in ("patience", "lora_rank"):
            self.require(getattr(self, name) >= 0, name, "0 or more")
        for name in ("warmup_ratio", "held_out"):
            self.require(0 <= getattr(self, name) < 1, name, "at least 0 and below 1")
        self.require(not self.patience or self.held_out, "held_out", "above 0, or patience 0")
        self.require(not self.held_out or self.packed, "packed", "true; held-out rows are evaluated in packs")

    def require(self, met: bool, name: str, bounds: str) -> None:
        """Refuse a field whose bounds are not met."""
        if not met:
            raise BadConfig(f"{name} is {getattr(self, name)}", remedy=f"set {name} {bounds}")


@dataclass(frozen=True, slots=True)
class DpoRecipe(RunRecipe):
    """Preference optimisation on pairs. For billions of parameters take a rate near 1e-6.

    beta:       strength of the pull to the reference, in nats.
    loss_type:  sigmoid, robust, hinge, ipo or sigmoid_norm; packed also tdpo1 and tdpo2.
    label_smoothing: chance that a pair is the wrong way round, for robust and, packed, sigmoid (conservative DPO).
    sft_weight: weight of the chosen answers' negative log-likelihood, added: mean over a pack's chosen tokens, packs
                weighed by their pairs.
    max_length: pairs whose prompt and longer answer have more tokens are left out, never cut; none keeps all.
    curriculum: epochs over which pairs of small margin come to count as much as the others; 0: all alike.
    source:     pairs of this source alone: step for Step-DPO, a role for MALT; empty: of all.
    """

    learning_rate: float = 3e-5
    beta: float = 0.1
    loss_type: str = "sigmoid"
    label_smoothing: float = 0.0
    sft_weight: float = 1.0
    max_length: int | None = None
    curriculum: int = 0
    source: str = ""

    def check(self) -> None:
        """As of every run.

        Raises:
            BadConfig: names the field.
        """
        RunRecipe.check(self)
        known = (*DPO_LOSSES, *TDPO_LOSSES) if self.packed else DPO_LOSSES
        self.require(self.loss_type in known, "loss_type", f"to one of {', '.join(known)}")
        self.require(self.beta > 0, "beta", "above 0; 0.1 is usual")
        self.require(0 <= self.label_smoothing < 0.5, "label_smoothing", "at least 0 and below 0.5")
        smoothed = self.loss_type == "robust" or (self.loss_type == "sigmoid" and self.packed)  # TRL's sigmoid has none
        self.require(
            smoothed or not self.label_smoothing, "label_smoothing", "to 0; robust and packed sigmoid have one"
        )
        self.require(self.sft_weight >= 0, "sft_weight", "0 or more")
        self.require(self.curriculum >= 0, "curriculum", "0 or more")
        self.require(not self.curriculum or self.packed, "packed", "true; a curriculum weighs pairs in packs")


@dataclass(frozen=True, slots=True)
class TRegRecipe(RunRecipe):
    """Preference optimisation with token rewards (T-REG). For billions of parameters take a rate near 1e-6.

    beta:       strength of the pull to the reference, in nats.
    alpha:      weight of the token rewards; 0.1, 0.25 and 0.5 were tried.
    base_loss:  dpo, or simpo, which has no reference.
    gamma:      margin that simpo asks for.
    weighted:   token rewards count as much as the pair still does in DPO's gradient; else always 1.
    sft_weight: weight of the chosen answers' negative log-likelihood, added: mean over a pack's chosen tokens, packs
                weighed by their pairs.
    """

    learning_rate: float = 3e-5
    beta: float = 0.1
    alpha: float = 0.25
    base_loss: str = "dpo"
    gamma: float = 0.0
    weighted: bool = True
    sft_weight: float = 1.0

    def check(self) -> None:
        """As of every run.

        Raises:
            BadConfig: names the field.
        """
        RunRecipe.check(self)
        self.require(self.packed, "packed", "true; T-REG trains on packs alone")
        self.require(self.base_loss in ("dpo", "simpo"), "base_loss", "to dpo or simpo")
        self.require(self.beta > 0, "beta", "above 0; 0.1 is usual")
        self.require(self.alpha >= 0, "alpha", "0 or more")
        self.require(self.sft_weight >= 0, "sft_weight", "0 or more")


@dataclass(frozen=True, slots=True)
class SftRecipe(RunRecipe):
    """Likelihood of a round's answers to imitate, token by token weighted. For billions take a rate near 1e-5.

    rows:  stage whose rows: best_answers, role_rows (MALT), rationales or retry_rows (R3L's offline form, whose weights
           are advantages, negative ones too).
    agent: answers of this role alone (MALT); empty: of all.
    """

    rows: str = "best_answers"
    agent: str = ""

    def check(self) -> None:
        """As of every run.

        Raises:
            BadConfig: names the field.
        """
        RunRecipe.check(self)
        self.require(self.rows in SFT_ROWS, "rows", f"to one of {', '.join(SFT_ROWS)}")
        self.require(self.rows != AMPLIFIED or self.packed, "packed", "true; TRL knows no weights but 0 and 1")


@dataclass(frozen=True, slots=True)
class IntRecipe(RunRecipe):
    """Supervised training on the round's InT rows. For billions of parameters take a rate near 1e-5."""
