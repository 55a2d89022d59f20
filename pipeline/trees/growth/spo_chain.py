"""SPO-chain: continuations from the cut points of a group of answers, once from each prefix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.credit.spo_chain import SpoChainParams, cut_points
from pipeline.errors import check_counts
from pipeline.generation.engine import Sampling
from pipeline.trees.draft import Ask, Draft, Spot
from pipeline.trees.prefixes import distinct_places
from pipeline.trees.strategy import Growing, gather


@dataclass(frozen=True, slots=True)
class SpoChain:
    """rho: tokens less probable are low. cutpoint_interval: a cut before every so many of them.

    group: answers a task. continuations: from each prefix; 4 for long chains of thought.

    Source: SPO (Guo et al., 2025), the settings of its code for short answers. Deviation: log-probabilities are those
        of the untempered policy.
    """

    group: int = 8
    continuations: int = 9
    rho: float = 0.9
    cutpoint_interval: int = 5
    temperature: float = 0.6
    top_p: float = 1.0

    needs_rewards = False
    by_step = False

    def __post_init__(self):
        check_counts(self, of="spo_chain", group=1, continuations=1)
        self._params()

    def grow(self, draft: Draft) -> Growing:
        """Sample the prompt, then continue from the prefixes that the group's cuts have: known once all have come."""
        whole = Sampling(self.temperature, self.top_p, draft.max_tokens)
        yield from gather(Ask(draft.root, sample, whole) for sample in range(self.group))
        asks = []
        for spot in distinct_places(draft, self._cuts(draft, draft.attempts())):
            sampling = Sampling(self.temperature, self.top_p, draft.left(spot))
            first = self.group if spot == draft.root else 0  # not what the answers themselves were drawn as
            asks += [Ask(spot, first + n, sampling, origin="continuation") for n in range(self.continuations)]
        yield from gather(asks)

    def _cuts(self, draft: Draft, answers: list[int]) -> list[Spot]:
        """The cut points of some answers, in their order."""
        logprobs = [draft.pieces[answer].logprobs for answer in answers]
        offsets = np.cumsum([0, *map(len, logprobs)])
        cuts = cut_points(np.concatenate([np.empty(0), *logprobs]), offsets, self._params())
        pairs = zip(cuts.responses.tolist(), cuts.tokens.tolist(), strict=True)
        return [Spot(answers[index], token + 1) for index, token in pairs]

    def _params(self) -> SpoChainParams:
        return SpoChainParams(rho=self.rho, cutpoint_interval=self.cutpoint_interval, mc_samples=self.continuations)
