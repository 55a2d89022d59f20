"""Finds the final answer in a text: `#### 42`, `\\boxed{42}`, `Final Answer: 42`, in that order, the last of each."""

from __future__ import annotations

import re

_HASHES = re.compile(r"####[ \t]*\n?[ \t]*([^\n]+)")
_FINAL = re.compile(r"final answer(?: is)?[ \t]*:?[ \t]*([^\n]+)", re.IGNORECASE)
LONGEST = 200


def find_answer(text: str) -> str | None:
    """The answer as written, without blanks and emphasis around it; None where none of at most 200 characters is."""
    found = _HASHES.findall(text)
    answer = found[-1] if found else _last_boxed(text)
    if answer is None:
        found = _FINAL.findall(text)
        answer = found[-1].rstrip(".") if found else None
    answer = answer.strip(" \t*") if answer else None
    return answer if answer and len(answer) <= LONGEST else None


def split_solution(text: str) -> tuple[str, str | None]:
    """A reference solution and the answer it states, the whole text kept as the solution."""
    return text.strip(), find_answer(text)


def _last_boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed{")
    for position in range(begin - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[begin:position]
    return None
