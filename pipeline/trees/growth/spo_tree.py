"""SPO-tree: every unfinished segment is continued by a fixed number of segments, down to a free-running last level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.generation.engine import Sampling
from pipeline.trees.draft import Answer, Ask, Draft, Spot
from pipeline.trees.strategy import Growing, spread


@dataclass(frozen=True, slots=True)
class SpoTree:
    """branching: segments from each place, level by level. segment: most tokens of one, but for the last level.

    Source: SPO (Guo et al., 2025): 6-6-6 with segments of 30 tokens for short answers, 600 for long ones.
    """

    branching: tuple[int, ...] = (6, 6, 6)
    segment: int = 30
    temperature: float = 0.6
    top_p: float = 1.0

    needs_rewards = False
    by_step = False

    def grow(self, draft: Draft) -> Growing:
        """Grow level by level, each child the moment its parent's segment has ended.

        Siblings with the same tokens are continued apart: a sample's index is its place in its level.
        """

        def below(at: Spot, level: int, place: int) -> Sequence[Ask]:
            if level == len(self.branching):
                return ()
            left = draft.left(at)
            most = left if level == len(self.branching) - 1 else min(self.segment, left)
            if most < 1:
                return ()
            sampling, width = Sampling(self.temperature, self.top_p, most), self.branching[level]
            return [Ask(at, place * width + index, sampling, note=level) for index in range(width)]

        def follow(answer: Answer) -> Sequence[Ask]:
            piece, ask = answer.piece, answer.ask
            if piece is None or not draft.pieces[piece].cut_short:
                return ()
            return below(draft.end_of(piece), ask.note + 1, ask.sample)

        yield from spread(below(draft.root, 0, 0), follow)
