"""A generative PRM in GenPRM's shape: for each step a rationale and a verdict, whose chance is the score."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.errors import check_counts
from pipeline.generation.engine import Sampling
from pipeline.judges.cases import Case
from pipeline.judges.talk import Ask, Reply, Talk, shared
from pipeline.judges.votes import Votes, by_majority
from pipeline.judges.wording import Wording
from pipeline.labels.prm_formats import Sample, verdict_probability
from pipeline.prompts import PromptPack
from pipeline.variants.regenerate import chance_of_right

YES, NO = "Yes", "No"
_SURE = 1e-9
"""Chance that is left to the other verdict at least, so that its logarithm is finite."""


@dataclass(frozen=True, slots=True)
class GenPrmJudge:
    """Labels steps, each by answers about itself and the steps before it. `soft` is their mean chance of a right step.

    The embedded policy is asked with its pack's role `judge`: it writes the step anew, then one of two words.

    k: answers on a step.

    Source: GenPRM (Zhao et al., 2025). Deviations: no code is run between analysis and judgement, and the engine tells
        the log-probability of the token that was drawn alone; the other verdict has what is left of 1.
    """

    k: int = 1
    temperature: float = 1.0
    max_tokens: int = 1024

    version = "2"
    names = ()

    def __post_init__(self) -> None:
        check_counts(self, of="genprm", k=1, max_tokens=1)

    def talk(self, case: Case, words: Wording) -> Talk:
        """Ask about every step of every attempt at once; steps that read the same are asked about once."""
        sampling, pack = Sampling(self.temperature, 1.0, self.max_tokens), words.pack
        nodes: dict[tuple[str, ...], set[int]] = {}
        for attempt in case.attempts:
            for place, step in enumerate(attempt.steps):
                nodes.setdefault(tuple(attempt.own_texts[: place + 1]), set()).add(attempt.nodes[step])
        asks = []
        for texts in nodes:
            holes = {"question": case.question, "steps": pack.transcript(texts)}
            messages = pack.messages("judge", **holes) if words.own_judge else words.messages("verify", **holes)
            asks += [Ask(messages, sampling, sample) for sample in range(self.k)]
        replies = yield asks
        votes: dict[int, Votes] = {}
        for number, alike in enumerate(nodes.values()):
            for reply in replies[number * self.k : (number + 1) * self.k]:
                chance = read_chance(reply, pack)
                cost = shared(len(reply.tokens), len(alike))
                for place, node in enumerate(sorted(alike)):
                    one = votes.setdefault(node, Votes())
                    one.add(None if chance is None else chance > 0.5, chance=chance, reasons=reply.text)
                    one.tokens += cost[place]
                    one.unread += chance is None and place == 0
        return by_majority(votes)


def read_chance(reply: Reply, pack: PromptPack) -> float | None:
    """How sure an answer is that the step is right, in [0, 1]; None where it has no verdict.

    The verdict is Yes or No with `}` right behind it, else one of the pack's two words at the end.
    """
    chance = chance_of_right(reply.tokens, reply.logprobs, right=pack.right, wrong=pack.wrong)
    if chance is not None:
        return chance
    listed = []
    for token, logprob in zip(reply.tokens, reply.logprobs, strict=True):
        other = {YES: NO, NO: YES}.get(token)
        rest = math.log(max(1.0 - math.exp(min(logprob, 0.0)), _SURE))
        listed.append({token: logprob} | ({other: rest} if other else {}))
    chance = verdict_probability(Sample(reply.text, reply.tokens, listed))
    return None if chance == 0.5 else chance
