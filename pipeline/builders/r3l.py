"""R3L records: what an attempt, the reflection on it and the retry leave behind for training.

The reflection and the guided retry stand in groups of one, so the loss of the others imitates them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.credit.r3l import pivot_masks
from pipeline.errors import BadConfig
from pipeline.variants.reflect import Reflection

DOMAINS = ("interactive", "math")
"""Episodes of many turns, replayed up to the pivot; answers of one turn, always tried again from the start."""

KINDS = {"base": "sample", "distilled_retry": "retry", "reflection": "reflection", "guided_retry": "guided_retry"}
"""Kind of a record to origin of its nodes, in the order the records of an attempt are written."""


@dataclass(frozen=True, slots=True)
class RecordParams:
    """repeat_times: rollouts a task, half of them attempts. domain: word of DOMAINS. max_reward: of a full success.

    Raises:
        BadConfig: no such domain.
    """

    repeat_times: int = 8
    domain: str = "interactive"
    max_reward: float = 1.0

    def __post_init__(self) -> None:
        if self.domain not in DOMAINS:
            raise BadConfig(f"r3l domain {self.domain!r} is not known", remedy=f"use one of {DOMAINS}")


DEFAULTS = RecordParams()


class Episode(NamedTuple):
    """reward: NaN where not judged. turns: of the policy. action_mask: `[T]` bool, from its first token on."""

    reward: float
    turns: int
    action_mask: np.ndarray


class Trial(NamedTuple):
    """An attempt, what was said of it, and the distilled retry. report_tokens: trained ones of the reflection."""

    base: Episode
    reflection: Reflection
    retry: Episode | None
    report_tokens: int


class Record(NamedTuple):
    """kind: key of KINDS. group: advantages are taken in it. run: number in the task. attempt: index of it.
    action_mask: `[T]` bool, pivot turns left out. source_run: the attempt a retry or reflection is about."""

    kind: str
    group: str
    run: int
    attempt: int
    source_run: int | None
    reward: float
    pivot_turn: int
    action_mask: np.ndarray


def r3l_records(task: str, trials: Sequence[Trial], params: RecordParams = DEFAULTS) -> list[Record]:
    """The records of a task, attempt after attempt; within one in the order of KINDS.

    A retry counts only where the reflection is valid and does not hold the attempt for a success. It and its
    attempt are masked before the pivot, which is 0 in domains that cannot be replayed. Reflection and guided
    retry are kept where the retry is a full success and better than the attempt, or (interactive) took fewer
    turns. A reflection that holds a full success for one is kept too. Trials beyond half of `repeat_times` are
    left out.

    Args:
        task: name, beginning of the names of its groups.
        trials: in the order they were made.

    Source: R^3L (Shi et al., 2026) and its code. Deviation: no turn of a mathematics answer is masked, since its
        retries restart from scratch.
    """
    records: list[Record] = []

    def write(kind: str, group: str, reward: float, mask: np.ndarray, pivot: int = 0) -> int:
        source = None if kind == "base" else base_run
        records.append(Record(kind, f"{task}_{group}", len(records), attempt, source, reward, pivot, mask))
        return len(records) - 1

    for attempt, trial in enumerate(trials[: params.repeat_times // 2]):
        said, base = trial.reflection, trial.base
        retry = trial.retry if said.valid and not said.perfect else None
        pivot = said.pivot if retry is not None and params.domain == "interactive" else 0
        base_run = len(records)
        write("base", "explore", base.reward, _masked(base.action_mask, pivot), pivot)
        report = np.ones(trial.report_tokens, bool)
        if retry is None:
            if said.valid and said.perfect and base.reward >= params.max_reward:
                write("reflection", f"reflect_{attempt}", 1.0, report)
            continue
        mask = _masked(retry.action_mask, pivot)
        write("distilled_retry", "explore", retry.reward, mask, pivot)
        shorter = params.domain == "interactive" and retry.turns < base.turns
        if retry.reward >= params.max_reward and (retry.reward > base.reward or shorter):
            write("reflection", f"reflect_{attempt}", 1.0, report)
            write("guided_retry", f"retry_{attempt}", 1.0, mask, pivot)
    return records


def _masked(mask: np.ndarray, pivot: int) -> np.ndarray:
    """The mask of one trajectory without its first turns."""
    return pivot_masks(mask, np.array([0, len(mask)]), np.array([pivot]))
