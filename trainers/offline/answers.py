"""Answers of trained policies to held-out tasks: of one policy, or of several that speak in turn (MALT)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import polars as pl

from pipeline.generation.engine import Completion, Sampling
from pipeline.generation.engines import open_tokens
from pipeline.stages.roles import VERIFY, RoleConfig
from pipeline.stages.work import Work
from pipeline.tasks.verifiers import Question, verify
from pipeline.trees.segment import cut_steps

Said = dict[tuple[int, int], str]
"""Text by place of the task and number of the sample; those that failed are absent."""


class Answers(NamedTuple):
    """`samples` answers to each of `N` tasks.

    reward: `[N, samples]` float64; NaN where the verifier failed, or nothing was answered.
    tokens: `[N, samples]` int64, of the answer; 0 where there is none.
    answer: `[N, samples]` int64, code of what is answered, the same for the same; -1: nothing can be read.
    missed: requests for them, or for what was said before, that failed and that another run may have answered.
    """

    reward: np.ndarray
    tokens: np.ndarray
    answer: np.ndarray
    missed: frozenset[str] = frozenset()


def held_out_answers(
    work: Work, tasks: pl.DataFrame, policies: Mapping[str, str], *, samples: int, first: int, temperature: float
) -> dict[str, Answers]:
    """What policies answer, each in its role and in view of what was said before: a pass of all roles a sample.

    `solve` and `generate` are shown the question, `verify` the steps of the answer before it too, `refine` the check.

    Args:
        tasks: `N` rows of the tasks table.
        policies: names by role, in the order of speaking.
        samples: passes a task.
        first: number of the first sample; another one draws other answers.
        temperature: of all roles.

    Returns:
        By role, without checks.
    """
    rows, found, missed = list(tasks.iter_rows(named=True)), {}, frozenset()
    said: Said = {(place, sample): "" for place in range(len(rows)) for sample in range(samples)}
    for role, policy in policies.items():
        speaker = replace(work, policy_name=policy)
        limit = RoleConfig().check_tokens if role == VERIFY else work.suite.max_tokens
        sampling = Sampling(temperature, max_tokens=limit)
        completions, lost = _spoken(speaker, rows, said, role=role, sampling=sampling, first=first)
        missed |= lost
        tokens = open_tokens(speaker.policy)
        said = {at: tokens.decode(one.token_ids) for at, one in completions.items()}
        if role == VERIFY:
            continue
        shape = len(rows), samples
        found[role] = Answers(np.full(shape, np.nan), np.zeros(shape, np.int64), np.full(shape, -1), missed)
        codes: dict[str, int] = {}
        for at, text in said.items():
            row = rows[at[0]]
            verdict = verify(row["verifier"], Question(row["answer"], row["info"]), text)
            found[role].reward[at] = np.nan if verdict.reward is None else verdict.reward
            found[role].tokens[at] = len(completions[at].token_ids)
            if verdict.parsed_answer is not None:
                found[role].answer[at] = codes.setdefault(verdict.parsed_answer, len(codes))
        if len(policies) > 1:
            said = {at: _transcript(speaker, completions[at]) for at in said}
    return found


def _spoken(
    speaker: Work, rows: list[dict], said: Said, *, role: str, sampling: Sampling, first: int
) -> tuple[dict[tuple[int, int], Completion], set[str]]:
    """What a policy says to each of what was said before; without what failed or spells a control token. And what
    failed that another run may have answered."""
    tokens, prompts, asked = open_tokens(speaker.policy), {}, {}
    with speaker.sampler(f"offline {speaker.policy_name}", total=len(said)) as sampler:
        for (place, sample), text in said.items():
            if not tokens.safe(text):
                continue
            if (place, text) not in prompts:
                messages = speaker.pack.messages(role, question=rows[place]["question"], steps=text, report=text)
                prompts[place, text] = tokens.render(messages)
            asked[place, sample] = sampler.request(prompts[place, text], sampling, sample=first + sample)
        entries = sampler.run(asked.values())
    answers = {at: entries[request.key].completion for at, request in asked.items()}
    return {at: answer for at, answer in answers.items() if answer.error is None}, sampler.missed


def _transcript(speaker: Work, answer: Completion) -> str:
    """The steps of an answer as a check is shown them."""
    tokens, separator = open_tokens(speaker.policy), speaker.suite.separator
    steps = cut_steps(answer.token_ids, separator, closers=tokens.closers(separator), decode=tokens.decode)
    return speaker.pack.transcript([step.text for step in steps])
