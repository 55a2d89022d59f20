"""TreePS-RAG: a tree of searches, level by level, from which near copies of a sibling's search are dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.credit.treeps_rag import prune_siblings
from pipeline.errors import BadConfig, check_counts
from pipeline.generation.engine import Sampling
from pipeline.trees.draft import Answer, Ask, Draft, Spot
from pipeline.trees.strategy import Growing, gather


@dataclass(frozen=True, slots=True)
class TreepsRag:
    """A step is what comes in one go: a search, an answer, or `step` tokens of something longer, which go on.

    documents_of: ids of what the search that a piece makes retrieved; None where it makes none.
    threshold:    siblings whose documents overlap so much (Jaccard) are alike; not published.
    tokens_found: what a search is shown of what it retrieved, as tokens. None: nothing.
    candidates:   steps drawn from each open one.
    width:        steps that go on at each level, shared out among their parents.
    depth:        levels; what is open before the last is made to answer at once, after the text `force`.
    step:         most tokens of a step but for the last.

    Source: TreePS-RAG (2026), from its abstract and notes of others; all numbers are ours.
    """

    documents_of: Callable[[Draft, int], frozenset[str] | None]
    threshold: float
    tokens_found: Callable[[Draft, int], np.ndarray] | None = None
    candidates: int = 3
    width: int = 8
    depth: int = 4
    step: int = 512
    force: str = ""
    temperature: float = 1.0
    top_p: float = 1.0

    needs_rewards = False
    by_step = False

    def __post_init__(self):
        check_counts(self, of="treeps_rag", candidates=1, width=1, depth=1, step=1)
        if not 0 < self.threshold <= 1:
            raise BadConfig(f"treeps_rag threshold {self.threshold} is no overlap", remedy="use more than 0, at most 1")

    def grow(self, draft: Draft) -> Growing:
        """Grow level by level: which candidates go on is known once those of a level have come.

        What is open and does not go on is no end of an attempt: its finish is taken away, and nobody judges it.
        """
        spots = [draft.root]
        for level in range(self.depth - 1):
            answers = yield from gather(self._asks(draft, spots, level=level, count=self.candidates, most=self.step))
            open_ = [answer for answer in answers if answer.piece is not None and self._is_open(draft, answer.piece)]
            chosen = self._shared_out(self._unlike(draft, open_))
            for answer in open_:
                if answer not in chosen:
                    draft.pieces[answer.piece].finish = None
            spots = [self._shown(draft, answer.piece) for answer in chosen]
        if self.force:
            spots = [self._written(draft, spot, draft.reading.encode(self.force)) for spot in spots]
        yield from gather(self._asks(draft, spots, level=self.depth - 1, count=1, most=draft.max_tokens))

    def _asks(self, draft: Draft, spots: Sequence[Spot], *, level: int, count: int, most: int) -> list[Ask]:
        """Draws from each place; places with the same tokens before them do not share any."""
        asks = []
        for number, spot in enumerate(spots):
            left = min(most, draft.left(spot))
            if left >= 1:
                sampling = Sampling(self.temperature, self.top_p, left)
                asks += [Ask(spot, number * count + n, sampling, note=level) for n in range(count)]
        return asks

    def _is_open(self, draft: Draft, piece: int) -> bool:
        return draft.pieces[piece].cut_short or self.documents_of(draft, piece) is not None

    def _unlike(self, draft: Draft, answers: list[Answer]) -> list[Answer]:
        """Those whose search is not that of an earlier sibling that is kept."""
        if not answers:
            return []
        parents: dict[Spot, int] = {}
        codes = [parents.setdefault(answer.ask.at, len(parents)) for answer in answers]
        found = [self.documents_of(draft, answer.piece) for answer in answers]
        names = [name for documents in found for name in sorted(documents or ())]
        dropped = prune_siblings(
            np.array(codes),
            np.unique(np.array(names, str), return_inverse=True)[1],
            np.cumsum([0, *(len(documents or ()) for documents in found)]),
            searches=np.array([documents is not None for documents in found], bool),
            threshold=self.threshold,
        )
        return [answer for answer, drop in zip(answers, dropped, strict=True) if not drop]

    def _shared_out(self, answers: list[Answer]) -> list[Answer]:
        """As many as may go on: the first of each parent, then the second of each, and so on."""
        seen: Counter[Spot] = Counter()
        ranks = []
        for answer in answers:
            ranks.append(seen[answer.ask.at])
            seen[answer.ask.at] += 1
        return [answers[index] for index in sorted(np.argsort(ranks, kind="stable")[: self.width].tolist())]

    def _shown(self, draft: Draft, piece: int) -> Spot:
        """Where a step goes on: after what its search found."""
        if self.tokens_found is None or self.documents_of(draft, piece) is None:
            return draft.end_of(piece)
        return self._written(draft, draft.end_of(piece), self.tokens_found(draft, piece))

    def _written(self, draft: Draft, spot: Spot, token_ids: np.ndarray) -> Spot:
        return draft.end_of(draft.write(spot, token_ids, origin="prompt", kind="step"))
