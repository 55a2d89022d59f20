"""Guided search: a beam over steps, kept by what a process reward model says of them. Knows no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.errors import check_counts
from pipeline.generation.engine import Sampling
from pipeline.trees.draft import Ask, Draft, Spot
from pipeline.trees.strategy import Growing, Shared, gather


class Paths(NamedTuple):
    """Those of a tree that end at some places."""

    draft: Draft
    spots: Sequence[Spot]


ScoresOf = Callable[[list[Paths]], Sequence[Sequence[float]]]
"""How good the paths of several trees are, by tree; the more the better; NaN: unknown, which is last."""


def likelihood(trees: list[Paths]) -> list[list[float]]:
    """Mean log-probability of what came last on each path: what a policy keeps that has no reward model."""
    return [[float(np.mean(draft.pieces[piece].logprobs[:end])) for piece, end in spots] for draft, spots in trees]


class _Kept(NamedTuple):
    """A path that is kept. ended: nothing more is to be said."""

    spot: Spot
    score: float
    ended: bool


@dataclass(frozen=True, slots=True)
class Guided:
    """From each path that is kept some steps are drawn, and of all paths the best are kept, until those have ended.

    beam:      paths kept. branching: draws from each; the prompt has as many as all together.
    segment:   tokens of a draw, at most. 0: an eighth of the longest answer. One that did not end has its last step
        cut off, unless that is all of it; what is cut off stays in the tree, and is no end of an attempt.
    prm:       the process reward model, of whoever runs the search; its score at the last token counts. Empty: what is
        likely is kept.

    A path is gone on from once, wherever its tokens stand. Answers that ended and are not kept are attempts as well.

    Source: beam search of Snell et al. (2024), with beams of `beam * branching`. Deviations: a draw ends at a number of
        tokens, so it may be more than a step; ended paths keep their place until better ones take it.
    """

    beam: int = 4
    branching: int = 4
    segment: int = 0
    prm: str = ""
    temperature: float = 1.0
    top_p: float = 1.0

    needs_rewards = False
    by_step = True

    def __post_init__(self):
        check_counts(self, of="guided", beam=1, branching=1, segment=0)

    def grow(self, draft: Draft, scores_of: ScoresOf = likelihood) -> Growing:
        """Search; with a reward model as `Informed` rules."""
        kept, tried = [_Kept(draft.root, 0.0, ended=draft.left(draft.root) < 1)], set()
        while open_ := [one.spot for one in kept if not one.ended]:
            answers = yield from gather(self._asks(draft, open_))
            tried |= {draft.prefix(spot).tobytes() for spot in open_}
            found = _reached(draft, [one.piece for one in answers if one.piece is not None])
            scores = (yield Shared(scores_of, Paths(draft, [spot for spot, _ in found]))) if found else ()
            new = [_Kept(spot, score, ended) for (spot, ended), score in zip(found, scores, strict=True)]
            kept = self._best(draft, [*(one for one in kept if one.ended), *new], tried)

    def _asks(self, draft: Draft, spots: Sequence[Spot]) -> list[Ask]:
        most, asks = self.segment or -(-draft.max_tokens // 8), []
        for spot in spots:
            sampling = Sampling(self.temperature, self.top_p, min(most, draft.left(spot)))
            first = spot == draft.root
            draws, origin = (self.beam * self.branching, "sample") if first else (self.branching, "branch")
            asks += [Ask(spot, sample, sampling, origin) for sample in range(draws)]
        return asks

    def _best(self, draft: Draft, paths: Sequence[_Kept], tried: set[bytes]) -> list[_Kept]:
        """The best paths, of equals the first; none that was gone on from, and of the same tokens one."""
        order, best = np.argsort([-one.score for one in paths], kind="stable"), {}
        for one in (paths[index] for index in order.tolist()):
            prefix = draft.prefix(one.spot).tobytes()
            if prefix not in tried:
                best.setdefault(prefix, one)
        return list(best.values())[: self.beam]


def _reached(draft: Draft, pieces: Sequence[int]) -> list[tuple[Spot, bool]]:
    """Where each draw goes on, and whether it has ended instead; without those that have no tokens."""
    found = []
    for piece in pieces:
        one, end = draft.pieces[piece], draft.end_of(piece)
        ended = not one.cut_short or draft.left(end) < 1
        if not ended:
            one.finish = None
            inner = draft.reading.steps(one.token_ids)[:-1]
            end = Spot(piece, inner[-1].end) if inner else end
        if len(one.token_ids):
            found.append((end, ended))
    return found
