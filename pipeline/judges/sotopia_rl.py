"""Sotopia-RL's annotator: how much each utterance of a speaker contributed to a dialogue's score, a dimension a prompt.

The policy is the speaker; what is rendered between its steps is what the other one said. What it was told of its part,
the goal that the other does not know among it, is shown apart from what was said.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.credit.sotopia_rl import JUDGED, RANGES, SCALES
from pipeline.errors import check_counts
from pipeline.generation.engine import Sampling
from pipeline.judges.cases import Attempt, Case
from pipeline.judges.talk import Ask, Reply, Said, Talk
from pipeline.judges.wording import Wording, dialogue
from pipeline.variants.answers import read_object

_DIMENSIONS = {
    "goal": "whether the speaker's goal was reached",
    "relationship": "whether the relationship between the speakers got better or worse",
    "knowledge": "whether the speaker learnt something new and important",
}


@dataclass(frozen=True, slots=True)
class SotopiaJudge:
    """Scores utterances, `attribution_<dimension>` from 0 to 3, and leaves, `score_<dimension>` in its range.

    An answer whose keys are not as many as the utterances is asked for again; the last one is kept as it is. An
    utterance it leaves out, or gives what is no number of the scale, has no value.

    retries: further answers at most.

    Source: Sotopia-RL (2025) as its code asks. Deviations: the episode's scores are asked of the same judge, and an
        answer that cannot be read at all is unknown, where the code gives every utterance -1.
    """

    retries: int = 5
    temperature: float = 0.7
    max_tokens: int = 512

    version = "2"
    names = tuple(f"{said}_{name}" for said in ("attribution", "score") for name in JUDGED)

    def __post_init__(self) -> None:
        check_counts(self, of="sotopia_rl", retries=0, max_tokens=1)

    def talk(self, case: Case, words: Wording) -> Talk:
        """Ask for scores and all attributions at once; then again for those that do not fit."""
        sampling = Sampling(self.temperature, 1.0, self.max_tokens)

        def ask(attempt: Attempt, dimension: str, sample: int) -> Ask:
            holes = {"told": case.told or case.question, "dialogue": dialogue(attempt)}
            if dimension == "score":
                return words.ask("score", sampling, sample, **holes)
            scale = {"type": "integer", "minimum": 0, "maximum": SCALES["default"]}
            keys = {f"Utterance {place}": scale for place in range(len(attempt.steps))}
            holes["dimension"] = _DIMENSIONS[dimension]
            return words.ask("attribute", sampling, sample, properties=keys, **holes)

        wanted = [(number, name) for number in range(len(case.attempts)) for name in ("score", *JUDGED)]
        answers: dict[tuple[int, str], list[Reply]] = {one: [] for one in wanted}
        for sample in range(1 + self.retries):
            replies = yield [ask(case.attempts[number], name, sample) for number, name in wanted]
            for one, reply in zip(wanted, replies, strict=True):
                answers[one].append(reply)
            wanted = [
                (number, name)
                for number, name in wanted
                if not _fits(answers[number, name][-1], name, len(case.attempts[number].steps))
            ]
        said: dict[tuple[int, str], Said] = {}
        for (number, name), replies in answers.items():
            rows = _scores if name == "score" else _attributions
            for one in rows(case.attempts[number], name, replies):
                said.setdefault((one.node, one.name), one)
        return list(said.values())


def read_attributions(text: str, count: int) -> list[float | None] | None:
    """A number of the scale for each utterance; None for one that lacks it. None: the text cannot be read."""
    found = read_object(text)
    if found is None:
        return None
    return [_number(found.get(f"Utterance {place}"), 0.0, SCALES["default"]) for place in range(count)]


def _fits(reply: Reply, name: str, count: int) -> bool:
    found = read_object(reply.text)
    if found is None:
        return False
    return all(key in found for key in JUDGED) if name == "score" else len(found) == count


def _scores(attempt: Attempt, name: str, replies: Sequence[Reply]) -> list[Said]:
    """Scores of the leaf, from the last answer."""
    del name
    found, text = read_object(replies[-1].text), json.dumps(replies[-1].text)
    tokens = sum(len(reply.tokens) for reply in replies)
    values = {key: _number((found or {}).get(key), *RANGES[key]) for key in JUDGED}
    return [
        Said(
            attempt.nodes[-1],
            value=value,
            text=text if value is None else None,
            name=f"score_{key}",
            tokens=tokens if place == 0 else 0,
            unread=int(found is None and place == 0),
        )
        for place, (key, value) in enumerate(values.items())
    ]


def _attributions(attempt: Attempt, name: str, replies: Sequence[Reply]) -> list[Said]:
    values = read_attributions(replies[-1].text, len(attempt.steps))
    tokens, text = sum(len(reply.tokens) for reply in replies), json.dumps(replies[-1].text)
    return [
        Said(
            attempt.nodes[step],
            value=None if values is None else values[place],
            text=text if values is None or values[place] is None else None,
            name=f"attribution_{name}",
            tokens=tokens if place == 0 else 0,
            unread=int(values is None and place == 0),
        )
        for place, step in enumerate(attempt.steps)
    ]


def _number(value: Any, low: float, high: float) -> float | None:
    """A number in a range; None for anything else."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    return float(value) if fits else None
