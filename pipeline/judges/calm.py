"""CALM's annotator: the subgoals of a task, and which of them each step achieved."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import check_counts
from pipeline.generation.engine import Sampling
from pipeline.judges.cases import Attempt, Case
from pipeline.judges.talk import Said, Talk
from pipeline.judges.wording import Wording
from pipeline.variants.answers import read_object

_NOTHING = "(nothing)"


@dataclass(frozen=True, slots=True)
class CalmJudge:
    """Scores `subgoals`: on the root the list of them, on a step those it achieved, as JSON.

    subgoals: JSON list of names that every task has. Empty: they are asked for, a prompt a task.

    What lies between a step and the one before is what was there before it; what lies between it and the next, after.
    A list of subgoals that cannot be read leaves the tree untold; an answer on a step, that step.

    Source: CALM (2024), two passes a trajectory: decomposition, and a verification of each transition.
    """

    subgoals: str = ""
    temperature: float = 0.0
    max_tokens: int = 256

    version = "1"
    names = ("subgoals",)

    def __post_init__(self) -> None:
        check_counts(self, of="calm", max_tokens=1)

    def talk(self, case: Case, words: Wording) -> Talk:
        """Ask for the subgoals, then about every step of every attempt."""
        sampling = Sampling(self.temperature, 1.0, self.max_tokens)
        goals, tokens = _texts(self.subgoals), 0
        if goals is None:
            (reply,) = yield [words.ask("decompose", sampling, question=case.question)]
            goals, tokens = _texts_under(reply.text, "subgoals"), len(reply.tokens)
        if goals is None:
            return [Said(case.root, name="subgoals", tokens=tokens, unread=1)]
        steps: dict[int, tuple[Attempt, int]] = {}
        for attempt in case.attempts:
            for place in attempt.steps:
                steps.setdefault(attempt.nodes[place], (attempt, place))
        replies = yield [
            words.ask(
                "verify",
                sampling,
                question=case.question,
                subgoals=json.dumps(goals),
                before=_between(attempt, place, back=True),
                step=attempt.texts[place],
                after=_between(attempt, place, back=False),
            )
            for attempt, place in steps.values()
        ]
        said = [Said(case.root, text=json.dumps(goals), name="subgoals", tokens=tokens)]
        for node, reply in zip(steps, replies, strict=True):
            achieved = _texts_under(reply.text, "achieved")
            text = None if achieved is None else json.dumps(achieved)
            said.append(Said(node, text=text, name="subgoals", tokens=len(reply.tokens), unread=int(achieved is None)))
        return said


def _between(attempt: Attempt, place: int, *, back: bool) -> str:
    """What is rendered just before or after a step; where nothing is, the step before, or that nothing is there."""
    found: list[str] = []
    places: Sequence[int] = range(place - 1, -1, -1) if back else range(place + 1, len(attempt.nodes))
    for at in places:
        if attempt.said[at]:
            break
        found.append(attempt.texts[at])
    if not found and back and place:
        return attempt.texts[place - 1]
    return "\n".join(reversed(found) if back else found) or _NOTHING


def _texts_under(text: str, key: str) -> list[str] | None:
    found = read_object(text)
    return _listed(found.get(key)) if found else None


def _texts(text: str) -> list[str] | None:
    if not text:
        return None
    try:
        return _listed(json.loads(text))
    except (ValueError, RecursionError):
        return None


def _listed(value: Any) -> list[str] | None:
    return value if isinstance(value, list) and all(isinstance(one, str) for one in value) else None
