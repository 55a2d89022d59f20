"""Solutions that a process reward model is measured on: a policy's answers to held-out tasks, or a file's.

Where a task is a sum, its exact oracle says which step is the first wrong one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.generation.engine import Sampling
from pipeline.generation.engines import open_tokens
from pipeline.metrics.processbench import RIGHT
from pipeline.metrics.processbench_files import read_processbench
from pipeline.stages.work import Work
from pipeline.tasks.arithmetic import first_error, read_sum
from pipeline.tasks.verifiers import Question, verify
from pipeline.trees.segment import cut_steps


@dataclass(frozen=True, slots=True, eq=False)
class Solutions:
    """`M` solutions.

    task:      `[M]` int, code of each one's task, from 0; solutions of a task lie together.
    subset:    `[M]` names of what they are told apart by.
    input_ids: of each, prompt and answer. step_ends: of each, places of its steps' last tokens; none where it failed.
    label:     `[M]` float64, place of the first wrong step, RIGHT where there is none; NaN: nobody knows.
    reward:    `[M]` float64, the verdict; NaN: none.
    answer:    `[M]` int, code of what is answered, the same within a task for the same; -1: nothing can be read.
    missed:    requests that failed and that another run may have answered.
    """

    task: np.ndarray
    subset: np.ndarray
    input_ids: list[np.ndarray]
    step_ends: list[np.ndarray]
    label: np.ndarray
    reward: np.ndarray
    answer: np.ndarray
    missed: frozenset[str] = frozenset()

    @property
    def offsets(self) -> np.ndarray:
        """`[M + 1]` int64, where the steps of each begin."""
        return np.cumsum([0, *map(len, self.step_ends)], dtype=np.int64)


def sampled_solutions(
    work: Work, tasks: pl.DataFrame, *, samples: int, temperature: float = 1.0, top_p: float = 1.0
) -> Solutions:
    """So many answers of the work's policy to each task, cut into steps and judged. They are the answers that the
    stage `evals` asks for, found again where it ran."""
    tokens, sampling = open_tokens(work.policy), Sampling(temperature, top_p, work.suite.max_tokens)
    rows = list(tasks.iter_rows(named=True))
    with work.sampler(f"evals {work.policy.name}", total=len(rows) * samples) as sampler:
        asked = []
        for row in rows:
            prompt = tokens.render(work.pack.messages("solve", question=row["question"]))
            asked.append([sampler.request(prompt, sampling, sample=index) for index in range(samples)])
        entries = sampler.run(request for requests in asked for request in requests)
    closers = tokens.closers(work.suite.separator)
    ids, ends, labels, rewards, answers = [], [], [], [], []
    for row, requests in zip(rows, asked, strict=True):
        problem, codes = read_sum(row["question"]), {}
        for request in requests:
            completion = entries[request.key].completion
            said = np.asarray([] if completion.error else completion.token_ids, np.int32)
            steps = cut_steps(said, work.suite.separator, closers=closers, decode=tokens.decode)
            texts = [step.text for step in steps]
            verdict = verify(row["verifier"], Question(row["answer"], row["info"]), "\n".join(texts))
            unknown = completion.error is not None or verdict.reward is None
            ids.append(np.concatenate((request.prompt, said)))
            ends.append(np.array([len(request.prompt) + step.end - 1 for step in steps], np.int64))
            wrong = None if problem is None else first_error(problem, texts)
            labels.append(np.nan if problem is None or not steps else RIGHT if wrong is None else wrong)
            rewards.append(np.nan if unknown else verdict.reward)
            answer = verdict.parsed_answer
            answers.append(-1 if answer is None else codes.setdefault(answer, len(codes)))
    return Solutions(
        task=np.repeat(np.arange(len(rows)), samples),
        subset=np.repeat(tasks["task"].str.split("/").list.get(1, null_on_oob=True).fill_null("").to_numpy(), samples),
        input_ids=ids,
        step_ends=ends,
        label=np.array(labels, np.float64),
        reward=np.array(rewards, np.float64),
        answer=np.array(answers, np.int64),
        missed=frozenset(sampler.missed),
    )


def filed_solutions(work: Work, path: Path) -> Solutions:
    """The solutions of ProcessBench's files, under the prompt that the suite's pack puts to the policy.

    A step is encoded with the separator that closes it, each on its own; so a separator within a step cuts nothing.
    Right and wrong answers are not told apart there: all rewards are NaN.

    Raises:
        BadInput: see `read_processbench`.
    """
    cases, tokens = read_processbench(path), open_tokens(work.policy)
    ids, ends = [], []
    for case in cases:
        prompt = tokens.render(work.pack.messages("solve", question=case.problem))
        steps = [tokens.encode(f"{step}{work.suite.separator}") for step in case.steps]
        ids.append(np.concatenate((prompt, *steps)))
        ends.append(len(prompt) + np.cumsum([len(step) for step in steps]) - 1)
    return Solutions(
        task=np.arange(len(cases)),
        subset=np.array([case.subset for case in cases]),
        input_ids=ids,
        step_ends=ends,
        label=np.array([case.label for case in cases], np.float64),
        reward=np.full(len(cases), np.nan),
        answer=np.full(len(cases), -1),
    )
