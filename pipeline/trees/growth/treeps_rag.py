"""TreePS-RAG: which turns of a level go on. Copies of a sibling's do not; the others share the width.

Knows what was said and retrieved, and neither tokens nor what searches: `pipeline.environments.searches` plays it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.credit.treeps_rag import check_threshold, prune_siblings
from pipeline.errors import check_counts

PRUNED = "pruned"
"""Score of a turn: 1 where it is a copy of a sibling's and did not go on; 0 where it searched and is none."""


class Choice(NamedTuple):
    """What becomes of `K` turns. pruned: `[K]`, copies of a sibling's. kept: places of those that go on."""

    pruned: list[bool]
    kept: list[int]


@dataclass(frozen=True, slots=True)
class SearchGrowth:
    """How a tree of searches grows, level by level.

    threshold:  siblings whose documents overlap so much (Jaccard) are alike; not published.
    candidates: turns drawn from each open one.
    width:      open turns that go on at each level, shared out among their parents.
    depth:      levels; at the last, what is open must answer.

    Raises:
        BadConfig: one is out of range.

    Source: TreePS-RAG (2026), from its abstract and notes of others; all numbers are ours, and so is that a turn which
        does what an earlier sibling did goes no further, whatever it retrieves.
    """

    threshold: float
    candidates: int = 3
    width: int = 8
    depth: int = 4

    def __post_init__(self):
        check_counts(self, of="treeps_rag", candidates=1, width=1, depth=1)
        check_threshold(self.threshold)

    def choose(
        self, parents: Sequence[int], said: Sequence[Hashable], documents: Sequence[frozenset[str] | None]
    ) -> Choice:
        """Which open turns of a level go on.

        Args:
            parents: `[K]`, code from 0 of each one's parent; siblings in the order they were drawn.
            said: `[K]`, what each did; siblings that did the same are copies.
            documents: `[K]`, ids of what its search retrieved; None: it is no search.
        """
        first: dict[Hashable, int] = {}
        for place, did in enumerate(zip(parents, said, strict=True)):
            first.setdefault(did, place)
        again = [first[did] != place for place, did in enumerate(zip(parents, said, strict=True))]
        alike = self._alike(parents, [None if copy else found for copy, found in zip(again, documents, strict=True)])
        pruned = [copy or like for copy, like in zip(again, alike, strict=True)]
        seen: Counter[int] = Counter()
        ranks = []
        for place, parent in enumerate(parents):
            if not pruned[place]:
                ranks.append((seen[parent], place))
                seen[parent] += 1
        return Choice(pruned, sorted(place for _, place in sorted(ranks)[: self.width]))

    def _alike(self, parents: Sequence[int], documents: Sequence[frozenset[str] | None]) -> list[bool]:
        """Whether each search is that of an earlier sibling that is kept."""
        if not parents:
            return []
        names = [name for found in documents for name in sorted(found or ())]
        return prune_siblings(
            np.array(parents, np.int64),
            np.unique(np.array(names, str), return_inverse=True)[1],
            np.cumsum([0, *(len(found or ()) for found in documents)]),
            searches=np.array([found is not None for found in documents], bool),
            threshold=self.threshold,
        ).tolist()
