"""A generative PRM in ThinkPRM's shape: one verification of the whole solution, up to its first wrong step."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import check_counts
from pipeline.generation.engine import Sampling
from pipeline.judges.cases import Case
from pipeline.judges.talk import Ask, Talk, shared
from pipeline.judges.votes import Votes, by_majority
from pipeline.judges.wording import Wording, tagged
from pipeline.labels.prm_formats import read_step_verdicts, step_labels


@dataclass(frozen=True, slots=True)
class ThinkPrmJudge:
    """Labels steps by the majority of verifications that look at them; one that none looks at is not told.

    k: verifications of a solution.

    Source: ThinkPRM (Khalifa et al., 2025). Deviation: labels are of verdicts; the share of Yes that follows a question
        at the end is not asked for.
    """

    k: int = 1
    temperature: float = 1.0
    max_tokens: int = 2048

    version = "1"
    names = ()

    def __post_init__(self) -> None:
        check_counts(self, of="thinkprm", k=1, max_tokens=1)

    def talk(self, case: Case, words: Wording) -> Talk:
        """Ask for all verifications of all attempts at once."""
        sampling = Sampling(self.temperature, 1.0, self.max_tokens)
        replies = yield [
            Ask(words.messages("verify", question=case.question, steps=tagged(attempt.own_texts)), sampling, sample)
            for attempt in case.attempts
            for sample in range(self.k)
        ]
        votes: dict[int, Votes] = {}
        for number, reply in enumerate(replies):
            attempt = case.attempts[number // self.k]
            verdicts = read_step_verdicts(reply.text)
            told = step_labels(verdicts, steps=len(attempt.steps))
            cost = shared(len(reply.tokens), len(attempt.steps))
            for place, step in enumerate(attempt.steps):
                one = votes.setdefault(attempt.nodes[step], Votes())
                one.tokens += cost[place]
                one.unread += not verdicts and place == 0
                if told[place] is not None or not verdicts:
                    one.add(told[place], reasons=reply.text)
        return by_majority(votes)
