"""CAPO's judge: critiques of a whole solution, each naming the wrong steps in one pass; their vote is the label."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from pipeline.credit.capo import VOTES, Critiques, parse_critique, wrong_steps
from pipeline.errors import check_counts, check_words
from pipeline.generation.engine import Sampling
from pipeline.judges.cases import Case
from pipeline.judges.talk import Said, Talk, shared
from pipeline.judges.votes import Votes
from pipeline.judges.wording import Wording, tagged
from pipeline.variants.answers import read_object


@dataclass(frozen=True, slots=True)
class CapoJudge:
    """Labels steps. `soft` is the share of critiques that do not name the step, `hard` the vote.

    k: critiques of a solution. vote: word of VOTES; with `average` a step is wrong that half of them name.

    Source: CAPO (Xie et al., 2025). Deviation: the JSON of an answer may be mended.
    """

    k: int = 4
    vote: str = "majority"
    temperature: float = 1.0
    max_tokens: int = 1024

    version = "1"
    names = ()

    def __post_init__(self) -> None:
        check_counts(self, of="capo", k=1, max_tokens=1)
        check_words(self, of="capo", vote=VOTES)

    def talk(self, case: Case, words: Wording) -> Talk:
        """Ask for all critiques of all attempts at once."""
        sampling = Sampling(self.temperature, 1.0, self.max_tokens)
        asks = [
            words.ask(
                "critique",
                sampling,
                sample,
                question=case.question,
                answer=case.task["answer"],
                steps=tagged(attempt.own_texts),
            )
            for attempt in case.attempts
            for sample in range(self.k)
        ]
        replies = yield asks
        offsets = np.cumsum([0, *(len(attempt.steps) for attempt in case.attempts)])
        valid, flags, votes = [], [], {}
        for number, reply in enumerate(replies):
            attempt = case.attempts[number // self.k]
            found = read_object(reply.text)
            named = None if found is None else parse_critique(json.dumps(found))
            valid.append(named is not None)
            flags += [(number, step) for step in named or ()]
            cost = shared(len(reply.tokens), len(attempt.steps))
            for place, step in enumerate(attempt.steps):
                one = votes.setdefault(attempt.nodes[step], Votes())
                one.add(None if named is None else place not in named, reasons=reply.text)
                one.tokens += cost[place]
                one.unread += named is None and place == 0
        marked = np.array(flags, np.int64).reshape(-1, 2)
        critiques = Critiques(np.arange(len(replies)) // self.k, np.array(valid, bool), marked[:, 0], marked[:, 1])
        wrong = wrong_steps(critiques, offsets, self.vote)
        by_node: dict[int, list[float]] = {}
        for attempt, start in zip(case.attempts, offsets[:-1], strict=True):
            for place, step in enumerate(attempt.steps):
                by_node.setdefault(attempt.nodes[step], []).append(wrong[start + place])
        return [_label(node, one, by_node[node]) for node, one in sorted(votes.items())]


def _label(node: int, votes: Votes, wrong: list[float]) -> Said:
    """A node of several attempts is wrong where half of their votes say so."""
    return votes.said(node, hard=float(np.mean(wrong)) < 0.5)
