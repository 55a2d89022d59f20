"""Trees of searches on any engine: dialogues without a chat template, about a shelf of eight documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.environments.driver import Driver
from pipeline.environments.episode import Episode, Rules, Seat
from pipeline.environments.protocol import Observation, Step, Task
from pipeline.environments.searches import Searches
from pipeline.environments.story import Story
from pipeline.environments.tool_calls import ToolCall, calls_json
from pipeline.generation.sampler import Sampler
from pipeline.tasks.verifiers import Verdict
from pipeline.trees.draft import Draft, Reading
from pipeline.trees.growth.treeps_rag import SearchGrowth

FOUND = 30
"""Tokens that a search is shown."""


class _Shelf:
    """A turn searches unless its first token says that it answers, one in four; it finds a document of eight."""

    seats = ("solver",)
    instructions = ("",)
    judge = "verifier"
    replayable = True

    def reset(self, task: Task, seed: int) -> Observation:
        return Observation(task.question)

    def step(self, action: str) -> Step:
        first = int(action)
        if first % 4 == 0:
            return Step(None, done=True, answer=action)
        calls = calls_json([ToolCall("search", {})], [True], [[str(first // 4 % 8)]])
        return Step(Observation(action), calls=calls)

    def copy(self) -> _Shelf:
        return self  # nothing of it changes

    def close(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class _Bare:
    """In place of a chat template: a turn is read by its first token. prompt: `[P]` int32."""

    prompt: np.ndarray

    def opening(self, messages: Sequence) -> np.ndarray:
        return self.prompt

    def following(self, before: Sequence, said: Sequence[int], *messages: dict[str, str]) -> tuple[np.ndarray, bool]:
        return np.full(FOUND, said[0], np.int32), False

    def text(self, token_ids: Sequence[int]) -> str:
        return str(token_ids[0])


def searched(
    sampler: Sampler, growth: SearchGrowth, prompts: Iterable[np.ndarray], *, reading: Reading, most: int
) -> Iterator[Draft]:
    """Grow a tree from each prompt. most: tokens of a turn."""
    rules = Rules(most_turns=growth.depth, most_tokens=most, length=1_000_000)
    trees = (
        Searches(
            Episode(
                0,
                _Shelf(),
                Task(""),
                0,
                [Seat(Story(f"{number}", f"{number}@bench", f"{number}@bench", "solver", "", reading), [])],
                _Bare(prompt),
                rules,
                lambda text: Verdict(0.0, None, None),
            ),
            growth,
            _Shelf,
        )
        for number, prompt in enumerate(prompts)
    )
    for one in Driver(sampler).run(trees):
        yield one.seats[0].story.draft
