"""Lessons for the embedded policy: a prompt and the answer to learn, in each of its five roles.

    solve      the sum, step by step
    reflect    on an attempt whose outcome is known: what was right, which step was not
    retry      solve again with such a report at hand (the report may be mistaken)
    intervene  find the first wrong step with the reference solution, write that step anew
    judge      is the last step of a prefix right

Problems are drawn apart from the embedded suite. Attempts are the policy's own samples once
there are any; before that, right solutions with one step spoiled and the rest carried on.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pipeline.prompts import Messages, PromptPack
from pipeline.tasks.arithmetic import Sum, first_error, read_sum, reference_steps, steps_right
from pipeline.tasks.suites import load_suite, suite_tasks
from schemas.words import SPLITS
from trainers.tiny.tokenizer import QUESTION

RESERVED_PER_BAND = 1000
SLIPS = (1, -1, 1, -1, 10, -10, 10, -10, 2, -2, 9, -9, 11, -11, 100, -100, 20, -20)


@dataclass(frozen=True, slots=True)
class Syllabus:
    """What is taught in a stretch of training.

    shares:    of the lessons, by role.
    one_digit: share of problems whose terms have one digit; the others have two.
    lengths:   numbers of terms drawn from, for one digit and for two.
    slip:      chance that a step of a worked solution is off, as in demonstrations nobody checked. The policy learns
               to solve at about that rate of error; reflection, check and verdict are taught without.
    """

    shares: dict[str, float]
    one_digit: float
    lengths: tuple[tuple[int, ...], tuple[int, ...]]
    slip: float = 0.0


@dataclass(frozen=True, slots=True)
class Lesson:
    role: str
    messages: Messages
    answer: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt at a problem; `report` is the policy's own reflection on it, if any."""

    problem: Sum
    steps: list[str]
    report: str | None = None


def question(problem: Sum) -> str:
    """As reasoning-gym words it."""
    return f"{QUESTION}{problem.expression} ="


def reserved_expressions() -> frozenset[str]:
    """Sums no lesson may use: the first thousand of each band and split of the embedded suite."""
    suite = load_suite("chain_sum")
    sizes = dict.fromkeys(SPLITS, RESERVED_PER_BAND)
    bands = tuple(replace(band, options=replace(band.options, sizes=sizes)) for band in suite.bands)
    questions = suite_tasks(replace(suite, bands=bands))["question"]
    return frozenset(problem.expression for text in questions if (problem := read_sum(text)) is not None)


def draw_problem(rng: random.Random, syllabus: Syllabus, reserved: frozenset[str]) -> Sum:
    """A sum the syllabus allows, not of the suite."""
    while True:
        digits = 1 if rng.random() < syllabus.one_digit else 2
        low, high = (0, 9) if digits == 1 else (10, 99)
        terms = tuple(rng.randint(low, high) for _ in range(rng.choice(syllabus.lengths[digits - 1])))
        problem = Sum(terms=terms, operators=tuple(rng.choice("+-") for _ in terms[1:]))
        if problem.expression not in reserved:
            return problem


def worked(problem: Sum, rng: random.Random, *, slip: float, sure: int = 0) -> list[str]:
    """A solution whose steps from number `sure` on are off with chance `slip`, each carried on faithfully."""
    value, steps = problem.terms[0], []
    for index, (operator, term) in enumerate(zip(problem.operators, problem.terms[1:], strict=True)):
        after = value + term if operator == "+" else value - term
        if index >= sure and rng.random() < slip:
            after += rng.choice(SLIPS)
        steps.append(f"{value} {operator} {term} = {after}")
        value = after
    return [*steps, f"#### {value}"]


def spoiled_attempt(problem: Sum, rng: random.Random) -> Attempt:
    """A solution in which one result is off and everything after it follows faithfully."""
    at, value, steps = rng.randrange(len(problem.operators)), problem.terms[0], []
    for index, (operator, term) in enumerate(zip(problem.operators, problem.terms[1:], strict=True)):
        after = value + term if operator == "+" else value - term
        if index == at:
            after += rng.choice(SLIPS)
        steps.append(f"{value} {operator} {term} = {after}")
        value = after
    return Attempt(problem, [*steps, f"#### {value}"])


def report_on(attempt: Attempt, *, at: int | None = None) -> str:
    """The reflection that is right about an attempt, or one that blames step `at`.

    Its summary works the sum out anew up to the step it blames, so that a wrong step shows as a difference.
    """
    wrong = first_error(attempt.problem, attempt.steps) if at is None else at
    if wrong is None:
        return json.dumps(
            {
                "trajectory_summary": "Every step was right.",
                "root_cause_analysis": None,
                "trajectory_outcome": "success",
                "improvement_suggestion": None,
                "retry_from_step": None,
            }
        )
    reference = reference_steps(attempt.problem)
    return json.dumps(
        {
            "trajectory_summary": "; ".join(reference[: wrong + 1]),
            "root_cause_analysis": f"Step {wrong} is wrong: {attempt.steps[wrong]}",
            "trajectory_outcome": "failure",
            "improvement_suggestion": reference[min(wrong, len(reference) - 1)],
            "retry_from_step": wrong,
        }
    )


def intervention_on(attempt: Attempt) -> str:
    """The answer of the intervene role: checks up to the first wrong step, and that step right."""
    wrong = first_error(attempt.problem, attempt.steps)
    last = len(attempt.steps) if wrong is None else wrong + 1
    reference = reference_steps(attempt.problem)
    checks = [
        {
            "index": index,
            "reason": reference[min(index, len(reference) - 1)],
            "verdict": "incorrect" if index == wrong else "correct",
        }
        for index in range(last)
    ]
    text = "" if wrong is None else reference[min(wrong, len(reference) - 1)]
    return json.dumps({"step_checks": checks, "first_error_index": wrong, "intervention": text})


def _expected(attempt: Attempt, index: int) -> str:
    """What step `index` should have been, given what the step before it says."""
    problem, reference = attempt.problem, reference_steps(attempt.problem)
    before = attempt.steps[index - 1].rpartition(" = ")[2] if index else str(problem.terms[0])
    if not re.fullmatch(r"-?\d{1,9}", before):
        return reference[min(index, len(reference) - 1)]
    rest = Sum((int(before), *problem.terms[index + 1 :]), problem.operators[index:])
    return reference_steps(rest)[0]


class Teacher:
    """Draws lessons. `attempts` is filled by whoever samples the policy."""

    def __init__(self, pack: PromptPack, syllabus: Syllabus, *, seed: int):
        self.pack, self.syllabus, self.rng = pack, syllabus, random.Random(seed)
        self.reserved = reserved_expressions()
        self.attempts: list[Attempt] = []

    def problem(self) -> Sum:
        """A problem to teach."""
        return draw_problem(self.rng, self.syllabus, self.reserved)

    def _attempt(self) -> Attempt:
        if self.attempts and self.rng.random() < 0.8:
            return self.rng.choice(self.attempts)
        return spoiled_attempt(self.problem(), self.rng)

    def lessons(self, count: int) -> Iterator[Lesson]:
        shares = self.syllabus.shares
        roles = self.rng.choices(list(shares), weights=list(shares.values()), k=count)
        for role in roles:
            yield getattr(self, f"_{role}")()

    def _solve(self) -> Lesson:
        problem = self.problem()
        return Lesson(
            "solve",
            self.pack.messages("solve", question=question(problem)),
            "\n".join(worked(problem, self.rng, slip=self.syllabus.slip)),
        )

    def _reflect(self) -> Lesson:
        attempt, outcome = self._attempt(), "failure"
        if self.rng.random() < 0.08:
            attempt, outcome = Attempt(attempt.problem, reference_steps(attempt.problem)), "success"
        holes = {"question": question(attempt.problem), "steps": self.pack.transcript(attempt.steps)}
        return Lesson("reflect", self.pack.messages("reflect", outcome=outcome, **holes), report_on(attempt))

    def _retry(self) -> Lesson:
        attempt = self._attempt()
        report = attempt.report
        if report is None or self.rng.random() < 0.2:
            mistaken = self.rng.random() < 0.15
            report = report_on(attempt, at=self.rng.randrange(len(attempt.steps)) if mistaken else None)
        # What the report worked out is copied; only what is solved anew can slip.
        sure = report.count(" = ", 0, report.find('", "root_cause_analysis"'))
        return Lesson(
            "retry",
            self.pack.messages("retry", question=question(attempt.problem), report=report),
            "\n".join(worked(attempt.problem, self.rng, slip=self.syllabus.slip, sure=sure)),
        )

    def _intervene(self) -> Lesson:
        attempt = self._attempt()
        holes = {
            "question": question(attempt.problem),
            "reference": self.pack.reference("\n".join(reference_steps(attempt.problem))),
            "steps": self.pack.transcript(attempt.steps),
        }
        return Lesson("intervene", self.pack.messages("intervene", **holes), intervention_on(attempt))

    def _judge(self) -> Lesson:
        attempt = self._attempt()
        verdicts = steps_right(attempt.problem, attempt.steps)
        wanted = self.rng.random() < 0.5
        places = [index for index, right in enumerate(verdicts) if right == wanted] or range(len(verdicts))
        last = self.rng.choice(list(places))
        holes = {
            "question": question(attempt.problem),
            "steps": self.pack.transcript(attempt.steps[: last + 1]),
        }
        return Lesson(
            "judge",
            self.pack.messages("judge", **holes),
            f"{_expected(attempt, last)} {self.pack.right if verdicts[last] else self.pack.wrong}",
        )
