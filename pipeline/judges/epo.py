"""EPO's judge: which turns of an episode were decisive, given all that was said and what came of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.credit.epo import OUTCOMES
from pipeline.errors import check_counts, check_words
from pipeline.generation.engine import Sampling
from pipeline.judges.cases import Attempt, Case
from pipeline.judges.talk import Reply, Said, Talk
from pipeline.judges.votes import Votes
from pipeline.judges.wording import Wording, dialogue
from pipeline.variants.answers import read_index, read_object

_UNKNOWN = "not known"


@dataclass(frozen=True, slots=True)
class EpoJudge:
    """Scores `key_turn`: 1 for a turn that an episode through it names, 0 for one that none does.

    outcome: word of OUTCOMES, the score that it is shown, from 0 to 1: the verdict, or a tenth of `score_goal`.

    Numbers of no turn are passed over. An answer that cannot be read stands with the turns it leaves untold.

    Source: EPO (ACL 2025), temperature 0.7. Deviation: an episode nobody has judged is shown without a score.
    """

    outcome: str = "verdict"
    temperature: float = 0.7
    max_tokens: int = 256

    version = "1"
    names = ("key_turn",)

    def __post_init__(self) -> None:
        check_counts(self, of="epo", max_tokens=1)
        check_words(self, of="epo", outcome=OUTCOMES)

    @property
    def reads_scores(self) -> tuple[str, ...]:
        """What each attempt has in place of a verdict."""
        return ("score_goal",) if self.outcome == "goal" else ()

    def talk(self, case: Case, words: Wording) -> Talk:
        """Ask about every attempt at once."""
        sampling = Sampling(self.temperature, 1.0, self.max_tokens)
        replies = yield [
            words.ask(
                "key",
                sampling,
                told=case.told or case.question,
                dialogue=dialogue(attempt),
                score=_UNKNOWN if attempt.reward is None else f"{attempt.reward:g}",
            )
            for attempt in case.attempts
        ]
        return _said(case.attempts, replies)


def read_turns(text: str, count: int) -> set[int] | None:
    """The turns that an answer names, of so many. None: it cannot be read."""
    found: dict[str, Any] = read_object(text) or {}
    named = found.get("key_utterances")
    if not isinstance(named, list):
        return None
    return {number for one in named if (number := read_index(one)) is not None and 0 <= number < count}


def _said(attempts: Sequence[Attempt], replies: Sequence[Reply]) -> list[Said]:
    votes: dict[int, Votes] = {}
    for attempt, reply in zip(attempts, replies, strict=True):
        named = read_turns(reply.text, len(attempt.steps))
        for place, step in enumerate(attempt.steps):
            one = votes.setdefault(attempt.nodes[step], Votes())
            one.add(None if named is None else place in named, reasons=reply.text)
            one.unread += named is None and place == 0
    return [_turn(node, one) for node, one in votes.items()]


def _turn(node: int, votes: Votes) -> Said:
    value = float(votes.right > 0) if votes.valid else None
    text = json.dumps(votes.reasons or "") if value is None else None
    return Said(node, value=value, text=text, name="key_turn", unread=votes.unread)
