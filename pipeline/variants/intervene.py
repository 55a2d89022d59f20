"""Interventions (InT): read the check of an attempt, keep or drop the step it proposes, build the training row.

Source: InT (Yang et al., 2026). Where the paper is silent the rules are those named at each function.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from pipeline.errors import BadConfig
from pipeline.variants.answers import read_index, read_object

Clone = Literal["prefix+intervention", "intervention_only", "with_suffix", "no_filter"]
CLONES: tuple[Clone, ...] = get_args(Clone)
MASKED = -100

ALREADY_CORRECT = "rollout already correct"
NO_ERROR = "no error found"
INVALID_INDEX = "invalid error index"
EMPTY = "empty intervention"
LEAK = "intervention states the final answer"
NO_SUCCESS = "no successful continuation"


@dataclass(frozen=True, slots=True)
class InterventionParams:
    """What is kept, and what of it is trained.

    clone: word of CLONES. `no_filter` keeps interventions without a successful continuation.
    min_successes: continuations that must succeed, under the other clones.

    Raises:
        BadConfig: no such clone.
    """

    clone: Clone = "prefix+intervention"
    min_successes: int = 1

    def __post_init__(self) -> None:
        if self.clone not in CLONES:
            raise BadConfig(f"clone {self.clone!r} does not exist", remedy=f"choose one of {', '.join(CLONES)}")

    @property
    def least_successes(self) -> int:
        """The successes asked for."""
        return 0 if self.clone == "no_filter" else self.min_successes


class Continuations(NamedTuple):
    """Continuations of an intervention: how many were judged, and how many of them succeeded."""

    count: int
    successes: int

    @property
    def coverage(self) -> int:
        """1 where any succeeded, else 0."""
        return int(self.successes >= 1)

    @property
    def accuracy(self) -> float:
        """Share that succeeded; 0 where none was judged."""
        return self.successes / self.count if self.count else 0.0


def tally(rewards: Sequence[float | None]) -> Continuations:
    """Count continuations by their rewards; one of None was not judged, one of 1 succeeded."""
    judged = [reward for reward in rewards if reward is not None]
    return Continuations(len(judged), sum(reward >= 1 for reward in judged))


def first_wrong(verdicts: Sequence[str]) -> int | None:
    """Index of the first step judged `incorrect`; None where there is none. Later ones follow from it, so they are not
    looked at."""
    return next((index for index, verdict in enumerate(verdicts) if verdict == "incorrect"), None)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A step proposed in place of the first wrong one.

    first_error: 0-based; None where none was found or the answer could not be read.
    text:        the step; empty where none was given.
    dropped:     why it goes no further; None while it may.
    """

    first_error: int | None
    text: str
    dropped: str | None


def read_proposal(answer: str, *, steps: int, reference_answer: str) -> Proposal:
    """Read the editor's answer about a failed attempt of so many steps.

    The reasons to drop it come in the order: no error found, invalid error index (also: unreadable), empty
    intervention, intervention states the final answer.
    """
    found = read_object(answer)
    if found is None or "first_error_index" not in found:
        return Proposal(None, "", INVALID_INDEX)
    return check_proposal(
        found["first_error_index"], found.get("intervention"), steps=steps, reference_answer=reference_answer
    )


def check_proposal(first_error: Any, intervention: Any, *, steps: int, reference_answer: str) -> Proposal:
    """The same for what was read: an index, None for no error, and a text; anything else is invalid or empty."""
    if first_error is None:
        return Proposal(None, "", NO_ERROR)
    index = read_index(first_error)
    if index is None or not 0 <= index < steps:
        return Proposal(None, "", INVALID_INDEX)
    text = intervention.strip() if isinstance(intervention, str) else ""
    if not text:
        return Proposal(index, "", EMPTY)
    return Proposal(index, text, LEAK if states_answer(text, reference_answer) else None)


def states_answer(text: str, answer: str) -> bool:
    """Whether a text contains the answer, not as part of a longer number or word.

    No word character or '.' may stand before it, and neither a word character nor '.digit' after it;
    blanks and `$` around the answer are trimmed.
    """
    bare = answer.strip().strip("$").strip()
    return bool(bare) and re.search(rf"(?<![\w.]){re.escape(bare)}(?!\w|\.\d)", text) is not None


def patch_row(
    prompt: Sequence[int],
    prefix: Sequence[Sequence[int]],
    intervention: Sequence[int],
    *,
    clone: Clone = "prefix+intervention",
    suffix: Sequence[int] = (),
) -> tuple[list[int], list[int]]:
    """The token ids and labels of an InT row.

    The wrong step and all that followed it are absent, and no end token is appended: the text stops in the
    middle of a solution on purpose.

    Args:
        prompt: tokens of the prompt, never trained.
        prefix: tokens of each right step before the first wrong one.
        intervention: tokens of the new step.
        clone: what is trained: prefix and intervention, the intervention alone, or a successful
            continuation too (`suffix`).

    Returns:
        input_ids and labels, equally long, -100 where not trained.
    """
    before = [token for step in prefix for token in step]
    after = list(suffix) if clone == "with_suffix" else []
    input_ids = [*prompt, *before, *intervention, *after]
    labels = [MASKED] * len(prompt) + list(input_ids[len(prompt) :])
    if clone == "intervention_only":
        labels[len(prompt) : len(prompt) + len(before)] = [MASKED] * len(before)
    return input_ids, labels


def keep_reason(proposal: Proposal, *, outcome: float, successes: int, min_successes: int = 1) -> str | None:
    """Why a candidate is dropped, first reason in order; None for one that is kept."""
    if outcome >= 1:
        return ALREADY_CORRECT
    if proposal.dropped is not None:
        return proposal.dropped
    return NO_SUCCESS if successes < min_successes else None
