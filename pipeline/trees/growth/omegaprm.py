"""OmegaPRM: the first error of wrong attempts by halving, with a few rollouts of every prefix that is probed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pipeline.credit.omegaprm import OmegaprmParams, priorities, select
from pipeline.errors import check_counts
from pipeline.generation.engine import Sampling
from pipeline.trees.draft import Ask, Draft
from pipeline.trees.strategy import Growing, gather


class _Wrong(NamedTuple):
    """A wrong rollout yet to be searched: the state it is of, and its piece."""

    state: int
    piece: int


@dataclass(slots=True)
class _States:
    """Prefixes with rollouts, in the order met. mc: share of right ones, NaN without any. visits: by search."""

    params: OmegaprmParams
    mc: list[float] = field(default_factory=list)
    visits: list[int] = field(default_factory=list)
    pool: list[_Wrong] = field(default_factory=list)

    def add(self, draft: Draft, pieces: Sequence[int]) -> float:
        """A state and its rollouts; the wrong ones enter the pool if others are right. Returns its MC."""
        judged = [piece for piece in pieces if draft.pieces[piece].reward is not None]
        wrong = [piece for piece in judged if draft.pieces[piece].reward < 1]
        mc = 1 - len(wrong) / len(judged) if judged else np.nan
        if 0 < mc < 1:
            self.pool += [_Wrong(len(self.mc), piece) for piece in wrong]
        self.mc.append(mc)
        self.visits.append(0)
        return mc

    def select(self, draft: Draft) -> int:
        """The piece of the wrong rollout that comes first; it leaves the pool."""
        states = np.array([wrong.state for wrong in self.pool])
        scores = priorities(
            np.array(self.mc)[states],
            np.array([len(draft.pieces[wrong.piece].token_ids) for wrong in self.pool]),
            states=states,
            visits=np.array(self.visits),
            params=self.params,
        ).score
        chosen = self.pool.pop(select(scores))
        self.visits[chosen.state] += 1
        return chosen.piece


@dataclass(frozen=True, slots=True)
class OmegaPrm:
    """Searches of a task go one after the other, since each may find rollouts that are worth more than those known.

    searches: wrong rollouts halved, a task; tasks whose attempts are all right or all wrong have none. Paper: 100.
    rollouts: of each prefix probed.
    alpha, beta, length, c_puct: what is searched first, see `pipeline.credit.omegaprm`.

    Source: OmegaPRM (Luo et al., 2024). The attempts of earlier stages are the rollouts of the root. A prefix of the
    same tokens is one state, wherever it stands.
    """

    searches: int = 4
    rollouts: int = 8
    alpha: float = 0.5
    beta: float = 0.9
    length: float = 500.0
    c_puct: float = 0.125
    temperature: float = 1.0
    top_p: float = 1.0

    needs_rewards = True
    by_step = True

    def __post_init__(self):
        check_counts(self, searches=1)
        self._params()

    def _params(self) -> OmegaprmParams:
        return OmegaprmParams(self.rollouts, self.alpha, self.beta, self.length, self.c_puct, self.searches)

    def grow(self, draft: Draft) -> Growing:
        """Halve wrong rollouts, the most useful first; at most `ceil(log2(steps))` probes each."""
        sampling = Sampling(self.temperature, self.top_p, draft.max_tokens)
        states = _States(self._params())
        states.add(draft, draft.attempts())
        known: dict[bytes, float] = {}
        for _ in range(self.searches):
            if not states.pool:
                return
            ends = draft.inner_ends(states.select(draft))
            good, bad = 0, len(ends) + 1
            while bad - good > 1:
                middle = (good + bad) // 2
                spot = ends[middle - 1]
                prefix = draft.prefix(spot).tobytes()
                if prefix not in known:
                    asks = [Ask(spot, sample, sampling, origin="branch") for sample in range(self.rollouts)]
                    answers = yield from gather(asks)
                    known[prefix] = states.add(draft, [it.piece for it in answers if it.piece is not None])
                good, bad = (middle, bad) if known[prefix] > 0 else (good, middle)
