"""Verifiers: is the final answer of a text right. Text is untrusted; nothing of it is run.

A verifier that fails says so; it never turns a failure into a zero.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from pipeline.errors import BadConfig
from pipeline.tasks.answers import find_answer

VERSION = "2"
_SECONDS = 5
_WORD, _ARTICLES = re.compile(r"[^\W_]+"), frozenset(("a", "an", "the"))
_MISHAPS = (ValueError, ArithmeticError, TypeError, LookupError, RecursionError, AttributeError, TimeoutError)


class Verdict(NamedTuple):
    """reward: 1 right, 0 wrong, None where the verifier failed with `error`."""

    reward: float | None
    parsed_answer: str | None
    error: str | None


class Question(NamedTuple):
    """What a verifier may know of a task."""

    answer: str
    info: str | None


@lru_cache(maxsize=64)
def _scorer(dataset: str) -> Callable:
    import reasoning_gym

    return reasoning_gym.get_score_answer_fn(dataset)


def _reasoning_gym(question: Question, answer: str) -> bool:
    """The dataset's own score, right only if full: its partial credit pays an answer that contains the right one."""
    info = json.loads(question.info or "{}")
    entry = {"answer": question.answer, "metadata": info.get("metadata", {})}
    return _scorer(info["dataset"])(answer, entry) >= 1.0


def _math(question: Question, answer: str) -> bool:
    """Equal as mathematics (math-verify); text that reads the same is equal too."""
    if answer == question.answer.strip():
        return True
    from pipeline.tasks.mathematics import equal

    return equal(question.answer, answer, seconds=_SECONDS)


def _words(question: Question, answer: str) -> bool:
    """The same words, without case, articles and punctuation, as SQuAD compares them (Rajpurkar et al., 2016)."""
    return _bare(answer) == _bare(question.answer)


def _bare(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.lower()) if word not in _ARTICLES]


VERIFIERS: dict[str, Callable[[Question, str], bool]] = {
    "reasoning_gym": _reasoning_gym,
    "math": _math,
    "words": _words,
}

UNVERIFIED = {"none": "the task has no answer to compare with", "environment": "its environment alone can judge it"}
"""Verifiers that say of no text whether it is right, and why."""


def verify(verifier: str, question: Question, text: str) -> Verdict:
    """Judge the final answer of a text. A text without an answer is wrong."""
    answer = find_answer(text)
    if verifier in UNVERIFIED:
        return Verdict(None, answer, UNVERIFIED[verifier])
    if verifier not in VERIFIERS:
        known = ", ".join((*VERIFIERS, *UNVERIFIED))
        raise BadConfig(f"verifier {verifier!r} does not exist", remedy=f"choose one of {known}")
    if answer is None:
        return Verdict(0.0, None, None)
    try:
        return Verdict(float(VERIFIERS[verifier](question, answer)), answer, None)
    except _MISHAPS as error:
        return Verdict(None, answer, f"{type(error).__name__}: {error}"[:200])
