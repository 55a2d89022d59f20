"""Step-wise Monte Carlo: from each inner step of some attempts, as many branches as it takes to tell its worth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

from pipeline.errors import BadConfig, check_counts
from pipeline.generation.engine import Sampling
from pipeline.trees.draft import Answer, Ask, Draft, Spot
from pipeline.trees.growth.steps import mixed
from pipeline.trees.strategy import Growing, spread


@dataclass(slots=True)
class _Tally:
    """Draws from one step. asked: failed ones included. judged: those with a reward, `total` their sum."""

    asked: int = 0
    under_way: int = 0
    judged: int = 0
    total: float = 0.0


@dataclass(frozen=True, slots=True)
class MonteCarlo:
    """Draws of a step come in batches; it is done once its interval excludes the threshold. No step waits for another.

    attempts:  labelled a task, wrong and right in turn.
    most:      draws of a step at most, failed ones included.
    batch:     of which so many at a time. As many as `most`: the same number from every step. A small one stops at the
        first few that happen to be alike.
    threshold: of the mean reward, below 1. 0: a step is done with the first batch that has a right draw, which is
        all that hard labels of Math-Shepherd need; its mean then says too much.
    level:     of the interval, between 0 and 1. It is looked at after every batch, so the level is that of one look.

    Source: Math-Shepherd (Wang et al., 2024) with 8 draws of every step; stopping is ours.
    """

    attempts: int = 2
    most: int = 32
    batch: int = 8
    threshold: float = 0.5
    level: float = 0.95
    temperature: float = 1.0
    top_p: float = 1.0

    needs_rewards = True
    by_step = True

    def __post_init__(self):
        check_counts(self, attempts=1, most=1, batch=1)
        if not (0 <= self.threshold < 1 and 0 < self.level < 1):
            raise BadConfig(
                f"threshold {self.threshold}, level {self.level}",
                remedy="give a threshold from 0 to below 1, and a level between 0 and 1",
            )

    def grow(self, draft: Draft) -> Growing:
        """Branch wherever something is still to be said, until it is clear what comes of it."""
        sampling = Sampling(self.temperature, self.top_p, draft.max_tokens)
        attempts = mixed(draft, draft.attempts())[: self.attempts]
        tallies = {spot: _Tally() for attempt in attempts for spot in draft.inner_ends(attempt)}

        def batch(spot: Spot) -> Iterator[Ask]:
            tally = tallies[spot]
            first = tally.asked
            tally.asked = min(first + self.batch, self.most)
            tally.under_way = tally.asked - first
            return (Ask(spot, sample, sampling, origin="branch") for sample in range(first, tally.asked))

        def follow(answer: Answer) -> Iterator[Ask]:
            tally = tallies[answer.ask.at]
            tally.under_way -= 1
            reward = None if answer.piece is None else draft.pieces[answer.piece].reward
            if reward is not None:
                tally.judged += 1
                tally.total += reward
            done = tally.under_way or tally.asked == self.most or self.decided(tally.total, tally.judged)
            return iter(()) if done else batch(answer.ask.at)

        yield from spread([ask for spot in tallies for ask in batch(spot)], follow)

    def decided(self, total: float, judged: int) -> bool:
        """Whether Wilson's interval for the mean of `judged` rewards, `total` their sum, excludes the threshold.

        The interval is all that a score test does not refuse, so this is the test.
        """
        variance = self.threshold * (1 - self.threshold)
        quantile = NormalDist().inv_cdf((1 + self.level) / 2)
        return (total - judged * self.threshold) ** 2 > quantile**2 * judged * variance
