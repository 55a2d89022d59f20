"""SophiaVL-R1's judge: one score of the whole thinking, whatever the answer."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.credit.trust_grpo import parse_thinking_score
from pipeline.errors import check_counts
from pipeline.generation.engine import Sampling
from pipeline.judges.cases import Case
from pipeline.judges.talk import Ask, Said, Talk
from pipeline.judges.wording import Wording

_GIVEN = re.compile(r"<answer>\s{0,9}[+-]?\.?\d")


@dataclass(frozen=True, slots=True)
class SophiaVlJudge:
    """Labels the leaf of each attempt, without `hard`: `soft` is the score of its thinking, as `trust_grpo` reads it.

    Source: SophiaVL-R1 (Fan et al., 2025), temperature 0. Deviation: a score that cannot be read is unknown here, where
        the method counts it as 0.
    """

    max_tokens: int = 64

    version = "1"
    names = ()

    def __post_init__(self) -> None:
        check_counts(self, of="sophiavl", max_tokens=1)

    def talk(self, case: Case, words: Wording) -> Talk:
        """Ask about every attempt at once."""
        sampling = Sampling(0.0, 1.0, self.max_tokens)
        replies = yield [
            Ask(words.messages("rate", question=case.question, steps="\n".join(attempt.own_texts)), sampling)
            for attempt in case.attempts
        ]
        found = []
        for attempt, reply in zip(case.attempts, replies, strict=True):
            score = parse_thinking_score(reply.text) if _GIVEN.search(reply.text) else None
            leaf = attempt.nodes[-1]
            found.append(Said(leaf, value=score, text=reply.text, tokens=len(reply.tokens), unread=int(score is None)))
        return found
