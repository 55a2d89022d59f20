"""Forks of a group of answers: where the policy was unsure, or where answers of unlike reward part."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from pipeline.errors import BadConfig, check_counts
from pipeline.generation.engine import Sampling
from pipeline.trees.draft import Ask, Draft, Spot
from pipeline.trees.prefixes import common_tokens, distinct_places
from pipeline.trees.strategy import Growing, gather

RULES = ("entropy", "disagreement")
"""Before the least likely tokens of an answer; where most pairs of answers of unlike reward part."""


@dataclass(frozen=True, slots=True)
class Forks:
    """Forks of the answers there are; where there are none, `group` are drawn first.

    rule:        word of RULES.
    top:         forks: an answer (entropy), a task (disagreement).
    branches:    from each fork.
    at_steps:    whether forks move back to the end of a step; those of earlier stages' answers always do.
    cache_block: forks move back to one token past a multiple of so many, counted from the beginning of the prompt, such
                 as a cache's 16, unless that is not within the answer; what `at_steps` says comes after. 1: nothing
                 moves. One past, because an engine computes the last token of a prompt in any case, and where that ends
                 a block, all of the block with it.

    No fork stands before the first token, nor where an answer has ended.

    Source: entropy is TreeRL's EPTree (Hou et al., 2025) with its (M, N, L, T) = (6, 2, 1, 2): what a token is
        unsure by is minus its log-probability. Deviation: tokens near the end are not left out.
    """

    rule: str = "entropy"
    group: int = 6
    top: int = 2
    branches: int = 2
    at_steps: bool = False
    cache_block: int = 1
    temperature: float = 1.0
    top_p: float = 1.0

    by_step = False

    def __post_init__(self):
        check_counts(self, of="forks", group=1, top=1, branches=1, cache_block=1)
        if self.rule not in RULES:
            raise BadConfig(f"forks rule {self.rule!r} does not exist", remedy=f"choose one of {', '.join(RULES)}")

    @property
    def needs_rewards(self) -> bool:
        """Disagreement is one of rewards."""
        return self.rule == "disagreement"

    def grow(self, draft: Draft) -> Growing:
        """Branch from each fork; which they are is known once the whole group has come."""
        if not draft.attempts():
            whole = Sampling(self.temperature, self.top_p, draft.max_tokens)
            yield from gather(Ask(draft.root, sample, whole) for sample in range(self.group))
        answers = draft.attempts()
        spots = self._unsure(draft, answers) if self.rule == "entropy" else self._disagreeing(draft, answers)
        asks = []
        for spot in (spot for spot in spots if draft.left(spot) > 0):
            sampling = Sampling(self.temperature, self.top_p, draft.left(spot))
            first = max((piece.sample + 1 for piece in draft.pieces if piece.at == spot), default=0)
            asks += [Ask(spot, first + n, sampling, origin="branch") for n in range(self.branches)]
        yield from gather(asks)

    def _unsure(self, draft: Draft, answers: list[int]) -> list[Spot]:
        """The distinct places before the least likely tokens of each answer."""
        spots = []
        for answer in answers:
            logprobs = draft.pieces[answer].logprobs
            places = np.argsort(logprobs, kind="stable")[: np.count_nonzero(~np.isnan(logprobs))]
            ends = self._moved(draft, answer, places)
            ends = ends[ends > 0]
            first = np.unique(ends, return_index=True)[1]
            spots += [Spot(answer, end) for end in ends[np.sort(first)][: self.top].tolist()]
        return list(distinct_places(draft, spots))

    def _disagreeing(self, draft: Draft, answers: list[int]) -> list[Spot]:
        """The distinct places where answers of unlike reward part, those of most pairs first."""
        spots = []
        for pair in combinations(answers, 2):
            one, other = (draft.pieces[answer] for answer in pair)
            if None in (one.reward, other.reward) or one.reward == other.reward:
                continue
            common = common_tokens(one.token_ids, other.token_ids)
            longer = pair[0] if common < len(one.token_ids) else pair[1]
            end = int(self._moved(draft, longer, np.array([common]))[0])
            if end > 0 and common < len(draft.pieces[longer].token_ids):
                spots.append(Spot(longer, end))
        parted = distinct_places(draft, spots)
        return sorted(parted, key=lambda spot: -parted[spot])[: self.top]

    def _moved(self, draft: Draft, answer: int, ends: np.ndarray) -> np.ndarray:
        """Where forks of an answer may stand, at or before some places; 0 where nowhere."""
        if self.cache_block > 1:
            before = len(draft.pieces[0].token_ids)
            back = (before + ends - 1) // self.cache_block * self.cache_block + 1 - before
            ends = np.where(back > 0, back, ends)
        if self.at_steps or draft.pieces[answer].nodes:
            steps = np.array([0, *(spot.end for spot in draft.inner_ends(answer))])
            ends = steps[np.searchsorted(steps, ends, side="right") - 1]
        return ends
