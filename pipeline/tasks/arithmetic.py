"""Sums worked out a step a line: reference solutions and an exact oracle of step correctness.

    12 + 7 - 5 =     becomes     12 + 7 = 19
                                 19 - 5 = 14
                                 #### 14

The oracle is for measuring credit methods and labels, and for making the lessons of the
embedded policy. Nothing that samples, credits or labels may call it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_EXPRESSION = re.compile(r"(-?\d+(?: [+-] -?\d+)+) =")
_STEP = re.compile(r"(-?\d+) ([+-]) (-?\d+) = (-?\d+)")
_ANSWER = re.compile(r"#### (-?\d+)")
MAX_DIGITS = 18


@dataclass(frozen=True, slots=True)
class Sum:
    """A chain of additions and subtractions, worked from the left."""

    terms: tuple[int, ...]
    operators: tuple[str, ...]

    @property
    def expression(self) -> str:
        """As the question writes it: `12 + 7 - 5`."""
        return str(self.terms[0]) + "".join(
            f" {operator} {term}" for operator, term in zip(self.operators, self.terms[1:], strict=True)
        )


def read_sum(question: str) -> Sum | None:
    """The sum a question asks for; None where it asks for anything else."""
    found = _EXPRESSION.search(question)
    if found is None or re.search(rf"\d{{{MAX_DIGITS + 1}}}", found[1]):
        return None
    words = found[1].split(" ")
    return Sum(terms=tuple(map(int, words[0::2])), operators=tuple(words[1::2]))


def _apply(left: int, operator: str, right: int) -> int:
    return left + right if operator == "+" else left - right


def reference_steps(problem: Sum) -> list[str]:
    """The worked solution, a step a line, the answer last."""
    value, lines = problem.terms[0], []
    for operator, term in zip(problem.operators, problem.terms[1:], strict=True):
        after = _apply(value, operator, term)
        lines.append(f"{value} {operator} {term} = {after}")
        value = after
    return [*lines, f"#### {value}"]


def steps_right(problem: Sum, steps: Sequence[str]) -> list[bool]:
    """Whether each step is right *given the steps before it*.

    A step is right if it takes up the value of the line before, applies the next operator and
    term of the problem and calculates correctly; the last line is right if every term was used
    and it repeats that value. So a step that carries an earlier error on faithfully is right
    itself: the first False is the first error.

    Returns:
        One bool a step. A line that is no step at all is wrong, and so is every later one.
    """
    value: int | None = problem.terms[0]
    verdicts: list[bool] = []
    for index, line in enumerate(steps):
        text = line.strip()
        if len(text) > 4 * MAX_DIGITS:
            text = ""
        step, answer = _STEP.fullmatch(text), _ANSWER.fullmatch(text)
        if value is None:
            verdicts.append(False)
        elif answer is not None:
            verdicts.append(index == len(problem.operators) and int(answer[1]) == value)
            value = None
        elif step is not None and index < len(problem.operators):
            left, right, result = int(step[1]), int(step[3]), int(step[4])
            expected = (value, problem.operators[index], problem.terms[index + 1])
            verdicts.append((left, step[2], right) == expected and _apply(left, step[2], right) == result)
            value = result
        else:
            verdicts.append(False)
            value = None
    return verdicts


def first_error(problem: Sum, steps: Sequence[str]) -> int | None:
    """0-based index of the first wrong step; None where all are right."""
    verdicts = steps_right(problem, steps)
    return verdicts.index(False) if False in verdicts else None
