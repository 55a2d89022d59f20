"""Branches from the inner steps of some attempts, wrong and right in turn: one more level of a tree, after the fact."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import check_counts
from pipeline.generation.engine import Sampling
from pipeline.trees.draft import Ask, Draft
from pipeline.trees.strategy import Growing, gather


@dataclass(frozen=True, slots=True)
class Steps:
    """attempts: forked a task, wrong and right in turn. branches: new ones from each inner step."""

    attempts: int = 2
    branches: int = 4
    temperature: float = 1.0
    top_p: float = 1.0

    needs_rewards = False
    by_step = True

    def __post_init__(self):
        check_counts(self, attempts=1, branches=1)

    def grow(self, draft: Draft) -> Growing:
        """Branch wherever something is still to be said."""
        sampling = Sampling(self.temperature, self.top_p, draft.max_tokens)
        yield from gather(
            Ask(spot, sample, sampling, origin="branch")
            for attempt in mixed(draft, draft.attempts())[: self.attempts]
            for spot in draft.inner_ends(attempt)
            for sample in range(self.branches)
        )


def mixed(draft: Draft, attempts: list[int]) -> list[int]:
    """Judged attempts, wrong and right in turn, so that both kinds are explored; the first of each first."""
    judged = [attempt for attempt in attempts if draft.pieces[attempt].reward is not None]
    wrong = [attempt for attempt in judged if draft.pieces[attempt].reward < 1]
    right = [attempt for attempt in judged if draft.pieces[attempt].reward >= 1]
    chosen: list[int] = []
    for index in range(max(len(wrong), len(right))):
        chosen += wrong[index : index + 1] + right[index : index + 1]
    return chosen
