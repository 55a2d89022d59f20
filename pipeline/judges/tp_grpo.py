"""TP-GRPO's judge: steps of right solutions by the reflections in them, of wrong ones by what the answer takes up.

Steps are those of the tree, so nothing is segmented; runs of equal labels are the method's thoughts.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import check_counts
from pipeline.generation.engine import Sampling
from pipeline.judges.cases import Attempt, Case
from pipeline.judges.talk import Ask, Reply, Said, Talk, shared
from pipeline.judges.votes import Votes
from pipeline.judges.wording import Wording, tagged
from pipeline.variants.answers import read_index, read_object


@dataclass(slots=True)
class _Found:
    """Of one attempt. wrong: places of its thinking steps, from 0; None: not told. replies: to all that was asked."""

    wrong: set[int] | None = None
    replies: list[Reply] = field(default_factory=list)
    unread: int = 0


@dataclass(frozen=True, slots=True)
class TpGrpoJudge:
    """Labels the steps of judged attempts but the last, which is the answer.

    Right solution: wrong are steps that a later one corrects, and that are found wrong when gone through; the rest is
    right. Wrong solution: a step that states what the answer does is wrong; the others are unknown, without a label.

    Source: TP-GRPO (He et al., 2025). Deviation: reflections and the ranges they correct are asked for in one prompt.
    """

    temperature: float = 0.0
    max_tokens: int = 1024

    version = "1"
    names = ()

    def __post_init__(self) -> None:
        check_counts(self, of="tp_grpo", max_tokens=1)

    def talk(self, case: Case, words: Wording) -> Talk:
        """Ask about all attempts at once; then about the ranges that right ones correct."""
        attempts = [one for one in case.attempts if one.right is not None and len(one.steps) > 1]
        found = [_Found() for _ in attempts]
        replies = yield [self._first(case, attempt, words) for attempt in attempts]
        ranges: list[tuple[int, int, int]] = []
        for number, (attempt, one, reply) in enumerate(zip(attempts, found, replies, strict=True)):
            one.replies.append(reply)
            count = len(attempt.steps) - 1
            if attempt.right:
                spans = _reflections(reply.text, count)
                one.wrong = None if spans is None else set()
                ranges += [(number, *span) for span in spans or ()]
            else:
                one.wrong = _numbers(read_object(reply.text), "matching_steps", range(count))
            one.unread += one.wrong is None
        yield from self._second(case, attempts, found=found, ranges=ranges, words=words)
        votes: dict[int, Votes] = {}
        for attempt, one in zip(attempts, found, strict=True):
            _vote(votes, attempt, one)
        return [_label(node, one) for node, one in sorted(votes.items())]

    def _first(self, case: Case, attempt: Attempt, words: Wording) -> Ask:
        *thought, conclusion = attempt.own_texts
        sampling = Sampling(self.temperature, 1.0, self.max_tokens)
        if attempt.right:
            return words.ask("reflections", sampling, question=case.question, steps=tagged(attempt.own_texts))
        return words.ask("matches", sampling, question=case.question, steps=tagged(thought), conclusion=conclusion)

    def _second(
        self,
        case: Case,
        attempts: Sequence[Attempt],
        *,
        found: Sequence[_Found],
        ranges: Sequence[tuple[int, int, int]],
        words: Wording,
    ) -> Generator[Sequence[Ask], list[Reply], None]:
        """Go through the ranges that reflections correct. One that cannot be read leaves its attempt untold."""
        sampling = Sampling(self.temperature, 1.0, self.max_tokens)
        replies = yield [
            words.ask(
                "corrected",
                sampling,
                question=case.question,
                steps=tagged(attempts[number].own_texts),
                first=str(first),
                last=str(last),
            )
            for number, first, last in ranges
        ]
        for (number, first, last), reply in zip(ranges, replies, strict=True):
            one, wrong = found[number], _numbers(read_object(reply.text), "wrong_steps", range(first, last + 1))
            one.replies.append(reply)
            one.unread += wrong is None
            one.wrong = None if wrong is None or one.wrong is None else one.wrong | wrong


def _vote(votes: dict[int, Votes], attempt: Attempt, found: _Found) -> None:
    thought = attempt.steps[:-1]
    costs = [shared(len(reply.tokens), len(thought)) for reply in found.replies]
    reasons = "\n\n".join(reply.text for reply in found.replies)
    for place, step in enumerate(thought):
        one = votes.setdefault(attempt.nodes[step], Votes())
        one.tokens += sum(cost[place] for cost in costs)
        one.reasons = one.reasons or reasons
        one.unread += found.unread if place == 0 else 0
        if found.wrong is None:
            continue
        if place in found.wrong:
            one.add(False)
        elif attempt.right:
            one.add(True)


def _label(node: int, votes: Votes) -> Said:
    return votes.said(node, hard=votes.chance > 0.5)


def _reflections(text: str, count: int) -> list[tuple[int, int]] | None:
    """The ranges of thinking steps that reflections correct; others are left out. None: unreadable."""
    answer = read_object(text)
    found = answer.get("reflections") if answer else None
    if not isinstance(found, list):
        return None
    spans = []
    for one in found:
        first, last = (read_index(one.get(name)) if isinstance(one, dict) else None for name in ("from", "to"))
        if first is not None and last is not None and 0 <= first <= last < count:
            spans.append((first, last))
    return list(dict.fromkeys(spans))


def _numbers(answer: dict[str, Any] | None, name: str, known: range) -> set[int] | None:
    """The numbers of steps under a key, those that are not known left out. None: unreadable."""
    found = answer.get(name) if answer else None
    if not isinstance(found, list):
        return None
    return {number for one in found if (number := read_index(one)) is not None and number in known}
