"""A round's surroundings: as of any stage, but on some of the suite's shards, and with draws of the run's own seed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import polars as pl

from pipeline.errors import BadConfig
from pipeline.generation.engine import Request, Sampling
from pipeline.generation.sampler import Sampler
from pipeline.report import Report
from pipeline.stages.work import MISSED, Work, check_answered, let_stand

LOG = logging.getLogger(__name__)
DRAWS = 1 << 20
"""Samples of a prompt that belong to one seed."""
ROUND_DRAWS = 1 << 10
"""Of those, the ones that belong to one round."""
SEEDS = (1 << 31) // DRAWS
"""Seeds there are: samples are counted in 32 bits."""


@dataclass(slots=True)
class SeededSampler(Sampler):
    """Numbers its samples from `first` on, so that runs of other seeds draw other answers from one policy."""

    first: int = 0

    def request(self, prompt: np.ndarray, sampling: Sampling, *, sample: int) -> Request:
        return Sampler.request(self, prompt, sampling, sample=self.first + sample)


@dataclass(frozen=True, slots=True)
class RoundWork(Work):
    """chosen: training shards of the round; none: all. held: held-out shards evaluated; 0: all. first_sample: number of
    the first sample of a prompt. unanswered: share of a stage's requests that the round goes on without."""

    chosen: tuple[str, ...] = ()
    held: int = 0
    first_sample: int = 0
    unanswered: float = 0.0

    def shards(self, split: str = "train", **options: Any) -> dict[str, pl.DataFrame]:
        found = Work.shards(self, split, **options)
        if split == "train":
            return {name: tasks for name, tasks in found.items() if not self.chosen or name in self.chosen}
        return dict(list(found.items())[: self.held or None])

    @contextmanager
    def sampler(self, stage: str, **options: Any) -> Iterator[Sampler]:
        with Work.sampler(self, stage, **options) as plain:
            yield SeededSampler(
                **{one.name: getattr(plain, one.name) for one in fields(Sampler)}, first=self.first_sample
            )


def settle(work: RoundWork, made: Iterable[Report]) -> None:
    """Go on from what stages made, for good: what they lack is not asked again, since a policy cannot take it later.

    Raises:
        BadModel: they lack more answers that may yet come than the round goes on without.
    """
    made = list(made)
    check_answered(made, most=work.unanswered, otherwise="; or give the share to go on without as --unanswered")
    for report in made:
        if report.numbers.get(MISSED):
            LOG.warning("round %s goes on without %d answers of %s", work.round, report.numbers[MISSED], report.stage)
            let_stand(work, report.stage)


def check_draws(seed: int, *, rounds: int) -> None:
    """Refuse a run whose samples would be those of another seed or round.

    Raises:
        BadConfig: names what is too large.
    """
    for name, value, end in (("seed", seed, SEEDS), ("rounds", rounds - 1, DRAWS // ROUND_DRAWS)):
        if value >= end:
            raise BadConfig(f"{name} is {value + (name == 'rounds')}", remedy=f"give at most {end - (name == 'seed')}")


def first_draw(seed: int, *, round: int) -> int:
    """Number of the first sample of a prompt in a round, from 0: rounds draw anew, though their policy be the same."""
    return DRAWS * seed + ROUND_DRAWS * round


def chosen_shards(names: list[str], *, count: int, round: int, seed: int) -> tuple[str, ...]:
    """Shards of a round, so many; 0: all. They are gone through in an order drawn anew each time; what is left over of
    it, fewer than a round takes, is passed by."""
    if not count or count >= len(names):
        return tuple(names)
    turn, place = divmod(round, len(names) // count)
    order = np.random.default_rng([seed, turn]).permutation(len(names))
    return tuple(names[number] for number in order[place * count : (place + 1) * count])
