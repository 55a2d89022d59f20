"""Which tokens the pieces of a draft have in common, and at which of their places the same tokens stand before."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.trees.draft import Draft, Piece, Spot


@dataclass(slots=True, eq=False)
class Prefixes:
    """Pieces of a draft whose common beginnings stand once: a trie whose edges are pieces that are never cut.

    pieces: what stands there; piece 0 is the prompt.
    runs:   by piece of the draft, where its tokens went: the place in it that a run begins at, and in `pieces`.
    hung:   by place, kind, whether sampled, and first token, the piece that goes on there.
    """

    draft: Draft
    pieces: list[Piece] = field(default_factory=list)
    runs: dict[int, list[tuple[int, Spot]]] = field(default_factory=lambda: {0: [(0, Spot(0, 0))]})
    hung: dict[tuple[Spot, str, bool, int], int] = field(default_factory=dict)

    def __post_init__(self):
        self.pieces.append(self.draft.pieces[0])

    def add(self, number: int) -> None:
        """Hang a piece where its tokens first differ from those that stand there; what it goes on from came before.

        Of pieces of kind `prompt` none shares tokens, for a context begins at each.
        """
        piece = self.draft.pieces[number]
        ids, sampled, shares = piece.token_ids, piece.logprobs is not None, piece.kind != "prompt"
        runs, done, at = [], 0, self.place(piece.at)
        while done < len(ids):
            host = self.pieces[at.piece]
            like = shares and host.kind == piece.kind and (host.logprobs is not None) == sampled
            common = common_tokens(host.token_ids[at.end :], ids[done:]) if like else 0
            if common:
                runs.append((done, at))
                at, done = Spot(at.piece, at.end + common), done + common
            if done == len(ids):
                break
            key = (at, piece.kind, sampled, int(ids[done]))
            if shares and key in self.hung:
                at = Spot(self.hung[key], 0)
                continue
            self.hung[key] = len(self.pieces)
            runs.append((done, Spot(len(self.pieces), 0)))
            rest = piece.logprobs[done:] if sampled else None
            self.pieces.append(replace(piece, at=at, token_ids=ids[done:], logprobs=rest))
            break
        self.runs[number] = runs

    def place(self, spot: Spot) -> Spot:
        """A place of the draft in `pieces`: the same for two just when they have the same tokens before them.

        After one token of a piece at least, unless it is in the prompt.
        """
        while spot.end == 0 and spot.piece != 0:
            spot = self.draft.pieces[spot.piece].at
        runs = self.runs[spot.piece]
        begins, at = runs[max(bisect_left(runs, spot.end, key=lambda run: run[0]) - 1, 0)]
        return Spot(at.piece, at.end + spot.end - begins)


def distinct_places(draft: Draft, spots: Iterable[Spot]) -> dict[Spot, int]:
    """Places in answers to the prompt, those with the same tokens before them but once.

    Returns:
        The first of each such places, or the root, in their order; and how many there are.
    """
    prefixes, found, counts = Prefixes(draft), {}, {}
    for spot in spots:
        if spot.piece not in prefixes.runs:
            prefixes.add(spot.piece)
        first = found.setdefault(prefixes.place(spot), spot if spot.end else draft.root)
        counts[first] = counts.get(first, 0) + 1
    return counts


def common_tokens(one: np.ndarray, other: np.ndarray) -> int:
    """How many tokens at the beginning are the same; takes time in proportion to them."""
    length, start, size = min(len(one), len(other)), 0, 64
    while start < length:
        end = min(start + size, length)
        unlike = one[start:end] != other[start:end]
        if unlike.any():
            return start + int(np.argmax(unlike))
        start, size = end, 2 * size
    return length
