"""Strategic Grams: phrases of planning, where they stand in a text, and how they are mined from correct solutions.

Does not know rewards, and does not embed text: clustering takes the vectors an encoder gave.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

SIZES = (3, 4, 5)
_START, _WORD, _WORDS = re.compile(r"(?<!\w)"), re.compile(r"\w"), re.compile(r"\S+")


class GramMatcher:
    """Finds phrases in texts, whatever their case.

    A phrase counts only where no letter, digit or underscore touches it.
    Time grows with the text and, at each place where a word may begin, with the phrases that begin alike.
    """

    def __init__(self, grams: Iterable[str]):
        folded = {_fold(gram) for gram in grams if gram}
        self._prefix = min(map(len, folded), default=0)
        self._by_prefix: dict[str, list[str]] = {}
        for gram in sorted(folded, key=lambda gram: (-len(gram), gram)):
            self._by_prefix.setdefault(gram[: self._prefix], []).append(gram)

    def find(self, text: str) -> np.ndarray:
        """`[F, 2]` int64: begin and end in characters of the longest phrase at each place, overlapping ones included.

        A shorter phrase at the same place lies within it.
        """
        folded, found = _fold(text), []
        for start in _START.finditer(folded) if self._by_prefix else ():
            begin = start.start()
            for gram in self._by_prefix.get(folded[begin : begin + self._prefix], ()):
                end = begin + len(gram)
                if folded.startswith(gram, begin) and not _WORD.match(folded, end):
                    found.append((begin, end))
                    break
        return np.array(found, np.int64).reshape(-1, 2)

    def mask(self, tokens: Sequence[str]) -> np.ndarray:
        """`[T]` bool: the tokens of a response that share a character with a phrase."""
        text = "".join(tokens)
        ends = np.cumsum([0, *map(len, tokens)])
        spans = self.find(text)
        edges = np.bincount(spans[:, 0], minlength=len(text) + 1) - np.bincount(spans[:, 1], minlength=len(text) + 1)
        marked = np.concatenate(([0], np.cumsum(np.cumsum(edges)[:-1] > 0)))
        return np.diff(marked[ends]) > 0


class MinedGrams(NamedTuple):
    """frequencies: share of solutions with a phrase of the cluster, by cluster. kept: the clusters kept, the most
    frequent first. grams: their phrases, sorted, each once."""

    frequencies: dict[str, float]
    kept: list[str]
    grams: list[str]


def mine_grams(
    solutions: Sequence[str], clusters: Mapping[str, Sequence[str]], *, top_fraction: float = 0.2
) -> MinedGrams:
    """Keep the clusters of phrases that occur in most solutions.

    Args:
        solutions: texts of correct solutions. Without one every frequency is 0.
        clusters: phrases of one meaning, by name.
        top_fraction: share of the clusters to keep, rounded up, at least one if there is any; ties go by name.
    """
    held = {name: _holding(solutions, grams) for name, grams in clusters.items()}
    frequencies = {name: count / max(len(solutions), 1) for name, count in held.items()}
    ranked = sorted(clusters, key=lambda name: (-held[name], name))
    kept = ranked[: max(1, int(np.ceil(round(top_fraction * len(ranked), 9))))]
    return MinedGrams(frequencies, kept, sorted({gram for name in kept for gram in clusters[name]}))


def count_grams(solutions: Iterable[str], sizes: Sequence[int] = SIZES) -> dict[str, int]:
    """The phrases of some words in a row, in lower case, and the solutions each occurs in."""
    counts: dict[str, int] = {}
    for solution in solutions:
        words = _WORDS.findall(solution.lower())
        for gram in {" ".join(words[at : at + size]) for size in sizes for at in range(len(words) - size + 1)}:
            counts[gram] = counts.get(gram, 0) + 1
    return counts


def cluster_grams(vectors: np.ndarray, *, distance: float = 0.3) -> np.ndarray:
    """Merge paraphrases: average-link clusters of phrases that are no further apart than a cosine distance.

    Args:
        vectors: `[N, D]` float, embeddings of the phrases, none of them 0.
        distance: not published; a convention.

    Returns:
        `[N]` int64, cluster of each phrase, numbered in the order of their first phrases.
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(vectors) < 2:
        return np.zeros(len(vectors), np.int64)
    found = fcluster(linkage(vectors, method="average", metric="cosine"), distance, criterion="distance")
    _, first, codes = np.unique(found, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[codes]


def semantic_entropy(counts: np.ndarray) -> float:
    """Shannon entropy of the frequencies of phrases over some rollouts, nats; 0 without any."""
    some = np.asarray(counts, np.float64)
    share = some[some > 0] / some.sum() if some.any() else some[:0]
    return float(-(share * np.log(share)).sum()) + 0.0


def _holding(solutions: Sequence[str], grams: Sequence[str]) -> int:
    """How many solutions hold a phrase."""
    matcher = GramMatcher(grams)
    return sum(len(matcher.find(solution)) > 0 for solution in solutions)


def _fold(text: str) -> str:
    """The text without case, character for character: no place in it moves."""
    return text.lower() if text.isascii() else "".join(map(_fold_character, text))


@lru_cache(maxsize=4096)
def _fold_character(character: str) -> str:
    for folded in (character.casefold(), character.lower()):
        if len(folded) == 1:
            return folded
    return character
