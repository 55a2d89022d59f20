"""Tasks that read nearly the same: candidates by MinHash, decided by their true Jaccard similarity. Knows no table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.hygiene.grams import grams, word_codes

SHINGLE_WORDS = 3
COMMON, COMMON_TASKS = 0.05, 10
"""A shingle of more than this share of the texts, and of more than so many, is wording they have in common."""
PERMUTATIONS = 128
_LOOSER = 0.1
"""By which candidates may be less alike than what is asked for: MinHash only estimates."""


class Near(NamedTuple):
    """group: `[N]` int64, the first text of each one's group; its own place where it is alone.

    similarity: `[N]` float64 in (0, 1], to the closest of the group; NaN where it is alone.
    """

    group: np.ndarray
    similarity: np.ndarray


def near_groups(texts: Sequence[str], *, threshold: float = 0.8) -> Near:
    """Group texts whose shingles of three words are alike by Jaccard's measure, and those linked by others.

    What many texts have in common, as the wording around a question, does not count: two sums of the same template
    are two questions. Texts that are word for word the same are always together.

    Source: MinHash and locality-sensitive hashing (Broder, 1997; Indyk and Motwani, 1998), by `datasketch`.
    """
    codes = [word_codes(text) for text in texts]
    first: dict[bytes, int] = {}
    whole = np.array([first.setdefault(one.tobytes(), place) for place, one in enumerate(codes)], np.int64)
    places = list(first.values())
    shingles = _telling([grams(codes[place], SHINGLE_WORDS) for place in places])
    pairs = [
        (one, other, alike)
        for one, other in _candidates(shingles, threshold=max(0.05, threshold - _LOOSER))
        if (alike := _jaccard(shingles[one], shingles[other])) >= threshold
    ]
    similarity = np.full(len(places), np.nan)
    for one, other, alike in pairs:
        similarity[[one, other]] = np.fmax(similarity[[one, other]], alike)
    links = coo_array(
        (np.ones(len(pairs)), ([one for one, _, _ in pairs], [other for _, other, _ in pairs])),
        shape=(len(places), len(places)),
    )
    _, label = connected_components(links, directed=False)
    leader = np.full(len(places), len(texts), np.int64)
    np.minimum.at(leader, label, places)
    place_of = {place: number for number, place in enumerate(places)}
    own = np.array([place_of[place] for place in whole], np.int64)
    repeated = np.bincount(whole, minlength=len(texts))[whole] > 1 if len(texts) else np.empty(0, bool)
    return Near(leader[label[own]] if len(texts) else whole, np.where(repeated, 1.0, similarity[own]))


def _telling(shingles: list[np.ndarray]) -> list[np.ndarray]:
    """The shingles of each text without those that are common wording."""
    values, counts = np.unique(np.concatenate([*shingles, np.empty(0, np.uint64)]), return_counts=True)
    common = values[counts > max(COMMON_TASKS, COMMON * len(shingles))]
    return [np.setdiff1d(one, common, assume_unique=True) for one in shingles]


def _candidates(shingles: list[np.ndarray], *, threshold: float) -> list[tuple[int, int]]:
    """Pairs of texts that may be alike, the earlier first."""
    from datasketch import MinHash, MinHashLSH

    # A pair too many costs a comparison; one too few is a leak.
    index = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, weights=(0.1, 0.9))
    found = []
    for place, one in enumerate(shingles):
        if len(one):
            sketch = MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=int)
            sketch.update_batch((one & np.uint64(2**32 - 1)).tolist())
            found += [(other, place) for other in sorted(index.query(sketch))]
            index.insert(place, sketch, check_duplication=False)
    return found


def _jaccard(one: np.ndarray, other: np.ndarray) -> float:
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / (len(one) + len(other) - both)
