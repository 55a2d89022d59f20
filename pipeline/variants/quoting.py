"""Whether a text quotes guidance that it is meant to stand without. Knows no tokens.

Words alone are compared: what is calculated anew may well read as it does in a report.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

LEAST_QUOTED = 8
"""Words in a row that are a quotation."""
_WORD = re.compile(r"[^\W\d_]+")


def quotes(text: str, *, guidance: Iterable[str], plain: Iterable[str]) -> bool:
    """Whether a text has so many words in a row from guidance that stand nowhere in what is plain to see.

    Args:
        guidance: texts that nobody is to know of. plain: texts that may be repeated.
    """
    return not _runs([text]).isdisjoint(_runs(guidance) - _runs(plain))


def guidance_of(report: str, preamble: Iterable[str]) -> list[str]:
    """What a retry is told: the texts in a report, which is JSON however deep, and the words around it."""
    texts, inner = list(preamble), [json.loads(report)]
    while inner:
        match inner.pop():
            case str(text):
                texts.append(text)
            case dict(parts):
                inner += parts.values()
            case list(parts):
                inner += parts
    return texts


def _runs(texts: Iterable[str]) -> set[tuple[str, ...]]:
    """Every so many words in a row, in lower case."""
    found = [_WORD.findall(text.lower()) for text in texts]
    return {tuple(words[at : at + LEAST_QUOTED]) for words in found for at in range(len(words) - LEAST_QUOTED + 1)}
