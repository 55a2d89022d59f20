"""PPPO: the first share of each answer, continued several times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.credit.pppo import prefix_tokens
from pipeline.errors import BadConfig, check_counts
from pipeline.generation.engine import Sampling
from pipeline.trees.draft import Answer, Ask, Draft, Spot
from pipeline.trees.strategy import Growing, spread


@dataclass(frozen=True, slots=True)
class Pppo:
    """group: answers a task. continuations: from each one's prefix. eta: share of an answer that is its prefix.

    Source: PPPO (2025). Its share grows in training: `credit.pppo.retention`.
    """

    group: int = 8
    continuations: int = 8
    eta: float = 0.15
    temperature: float = 1.0
    top_p: float = 1.0

    needs_rewards = False
    by_step = False

    def __post_init__(self):
        check_counts(self, of="pppo", group=1, continuations=1)
        if not 0 <= self.eta <= 1:
            raise BadConfig(f"pppo eta {self.eta} is no share", remedy="use a number from 0 to 1")

    def grow(self, draft: Draft) -> Growing:
        """Continue each answer's prefix the moment the answer has come; a prefix without tokens, or of all, is not."""

        def follow(answer: Answer) -> Sequence[Ask]:
            if answer.piece is None or answer.ask.origin == "branch":
                return ()
            length = len(draft.pieces[answer.piece].token_ids)
            spot = Spot(answer.piece, int(prefix_tokens(np.array([length]), self.eta)[0]))
            if not 0 < spot.end < length:
                return ()
            sampling = Sampling(self.temperature, self.top_p, draft.left(spot))
            first = answer.ask.sample * self.continuations  # answers of one prefix must not share draws
            return [Ask(spot, first + n, sampling, origin="branch") for n in range(self.continuations)]

        whole = Sampling(self.temperature, self.top_p, draft.max_tokens)
        yield from spread([Ask(draft.root, sample, whole) for sample in range(self.group)], follow)
