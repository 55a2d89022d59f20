"""Search-R2's judge of evidence: which of the passages that a step retrieved are useful."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pipeline.errors import BadConfig, check_counts
from pipeline.generation.engine import Sampling
from pipeline.judges.cases import Attempt, Case
from pipeline.judges.talk import Said, Talk
from pipeline.judges.wording import Wording
from pipeline.variants.answers import read_object


@dataclass(frozen=True, slots=True)
class SearchR2Judge:
    """Scores `useful` of steps that retrieved passages: a JSON list with a 0 or 1 for each.

    passage: expression of how a passage begins at a line's start; as the tool `search` shows it: `[id] `.

    Passages stand in what was rendered after the step. A list that is not as long as they are many is not read.

    Source: Search-R2 (2026). The prompt is ours, none is published.
    """

    passage: str = r"\[[^\]\n]+\] "
    temperature: float = 0.0
    max_tokens: int = 64

    version = "1"
    names = ("useful",)

    def __post_init__(self) -> None:
        check_counts(self, of="search_r2", max_tokens=1)
        try:
            re.compile(self.passage)
        except re.error as error:
            raise BadConfig(
                f"search_r2 passage {self.passage!r} is no expression: {error}", remedy="mend it"
            ) from error

    def talk(self, case: Case, words: Wording) -> Talk:
        """Ask about the passages of every step at once; a step that attempts share once."""
        sampling = Sampling(self.temperature, 1.0, self.max_tokens)
        retrieved = {node: found for attempt in case.attempts for node, found in self._retrieved(attempt)}
        replies = yield [
            words.ask(
                "useful",
                sampling,
                properties={"useful": _flags(len(found))},
                question=case.question,
                answer=case.task["answer"],
                passages=_numbered(found),
            )
            for found in retrieved.values()
        ]
        said = []
        for (node, found), reply in zip(retrieved.items(), replies, strict=True):
            useful = read_flags(reply.text, len(found))
            text = None if useful is None else json.dumps(useful)
            said.append(Said(node, text=text, name="useful", unread=int(useful is None)))
        return said

    def _retrieved(self, attempt: Attempt) -> Iterator[tuple[int, list[str]]]:
        """Steps of an attempt that something was found by, and the passages."""
        for step, after in pairwise([*attempt.steps, len(attempt.nodes)]):
            found = passages("\n".join(attempt.texts[step + 1 : after]), self.passage)
            if found:
                yield attempt.nodes[step], found


def passages(text: str, begins: str) -> list[str]:
    """The passages in what a search answered; each begins at a line's start, in the way that an expression says."""
    starts = [found.start() for found in re.finditer(f"^(?:{begins})", text, re.MULTILINE)]
    return [text[start:end].strip() for start, end in pairwise([*starts, len(text)])]


def read_flags(text: str, count: int) -> list[int] | None:
    """What an answer says of so many passages. None: it cannot be read, or says it of more or fewer."""
    found: dict[str, Any] = read_object(text) or {}
    flags = found.get("useful")
    if not isinstance(flags, list) or len(flags) != count or not all(one in (0, 1) for one in flags):
        return None
    return [int(one) for one in flags]


def _flags(count: int) -> dict[str, Any]:
    return {"type": "array", "items": {"enum": [0, 1]}, "minItems": count, "maxItems": count}


def _numbered(found: list[str]) -> str:
    return "\n".join(f"<passage {number}>\n{text}\n</passage {number}>" for number, text in enumerate(found))
