"""A tree while it grows: pieces of tokens that came in one go, each hung on a place in another.

Nodes and their numbers come once it is done (`lay_out`), so that they do not tell which answer came first. Knows no
engine, no strategy and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pipeline.generation.engine import Sampling
from pipeline.store.ledger import Entry
from pipeline.trees.segment import Step


class Spot(NamedTuple):
    """A place in a tree: after the first `end` tokens of a piece."""

    piece: int
    end: int


class Reading(NamedTuple):
    """How tokens are read. decode: to text. steps: cuts an answer into its steps. encode: text written to tokens."""

    decode: Callable[[Sequence[int]], str]
    steps: Callable[[np.ndarray], list[Step]]
    encode: Callable[[str], np.ndarray] | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """A draw that a strategy wants: what follows a place.

    at:       where it goes on.
    sample:   index among the draws of the same prefix and sampling.
    sampling: max_tokens is that of this draw.
    origin:   word of ORIGINS for what comes.
    kind:     word of KINDS for what comes.
    note:     the strategy's own remark, such as a level or a budget; does not enter the request.
    """

    at: Spot
    sample: int
    sampling: Sampling
    origin: str = "sample"
    kind: str = "step"
    note: int = 0


class Answer(NamedTuple):
    """What came of an ask. piece: its number in the draft; None where the request failed for good."""

    ask: Ask
    piece: int | None


@dataclass(slots=True, eq=False)
class Piece:
    """Tokens that came in one go.

    at:        the place they go on from; None for the prompt.
    token_ids: `[T]` int32.
    logprobs:  `[T]` float32, of what was sampled; None for what was rendered or written.
    finish:    word of FINISHES, also where the draw was meant to be cut short; None for what was not sampled.
    entry:     the request it came of, if any.
    reward:    verdict on it as the end of an attempt; None where it was not judged or the verifier failed.
    nodes:     of an earlier stage: by the end of each of its nodes, the node's number.
    """

    at: Spot | None
    token_ids: np.ndarray
    logprobs: np.ndarray | None = None
    finish: str | None = None
    origin: str = "prompt"
    kind: str = "prompt"
    sample: int = 0
    sampling: str = ""
    entry: Entry | None = None
    reward: float | None = None
    nodes: dict[int, int] = field(default_factory=dict)

    @property
    def cut_short(self) -> bool:
        """Whether something is still to be said: it ended at the token limit."""
        return self.finish == "length"


@dataclass(slots=True, eq=False)
class Draft:
    """One task's tree while it grows; piece 0 is the prompt.

    tree: its name. text: of the prompt, for people. max_tokens: of one whole answer.
    scores: what the strategy says of places, by the name under which the table of scores has it.
    """

    task: str
    tree: str
    text: str
    max_tokens: int
    reading: Reading
    pieces: list[Piece]
    scores: dict[str, dict[Spot, float]] = field(default_factory=dict)

    @property
    def root(self) -> Spot:
        """Where answers begin."""
        return self.end_of(0)

    def end_of(self, piece: int) -> Spot:
        """The place after a whole piece."""
        return Spot(piece, len(self.pieces[piece].token_ids))

    def add(self, ask: Ask, entry: Entry) -> int:
        """Hang an answer on its place. Returns the piece's number."""
        answer = entry.completion
        self.pieces.append(
            Piece(
                ask.at,
                answer.token_ids,
                answer.logprobs,
                answer.finish,
                ask.origin,
                ask.kind,
                ask.sample,
                ask.sampling.as_json(),
                entry,
            )
        )
        return len(self.pieces) - 1

    def write(self, at: Spot, token_ids: np.ndarray, *, origin: str, kind: str = "prompt", sample: int = 0) -> int:
        """Hang tokens on a place that nobody sampled. Returns the piece's number."""
        self.pieces.append(Piece(at, np.asarray(token_ids, np.int32), origin=origin, kind=kind, sample=sample))
        return len(self.pieces) - 1

    def score(self, name: str, spot: Spot, value: float) -> None:
        """Say a number of what ends at a place; the first that is said of it stands."""
        self.scores.setdefault(name, {}).setdefault(spot, value)

    def way(self, spot: Spot) -> list[Spot]:
        """The places at which a path leaves each of its pieces, from the prompt to `spot`."""
        found, at = [], spot
        while at is not None:
            found.append(at)
            at = self.pieces[at.piece].at
        return found[::-1]

    def prefix(self, spot: Spot) -> np.ndarray:
        """Token ids of the path up to a place, prompt included: `[T]` int32."""
        return np.concatenate([self.pieces[piece].token_ids[:end] for piece, end in self.way(spot)], dtype=np.int32)

    def length(self, spot: Spot) -> int:
        """Tokens of the path up to a place, prompt included."""
        return sum(end for _, end in self.way(spot))

    def left(self, spot: Spot) -> int:
        """Tokens that an answer may still have at a place."""
        return self.max_tokens - (self.length(spot) - self.length(self.root))

    def written(self, spot: Spot) -> str:
        """Text of the path up to a place, prompt left out."""
        ids = [self.pieces[piece].token_ids[:end] for piece, end in self.way(spot)[1:]]
        return self.reading.decode(np.concatenate(ids).tolist()) if ids else ""

    def inner_ends(self, piece: int) -> list[Spot]:
        """The places after each step of a piece but the last: where something is still to be said."""
        known = sorted(self.pieces[piece].nodes)
        ends = known or [step.end for step in self.reading.steps(self.pieces[piece].token_ids)]
        return [Spot(piece, end) for end in ends[:-1]]

    def attempts(self, *, origin: str = "sample") -> list[int]:
        """Whole answers to the prompt, in the order of their samples."""
        found = [
            number
            for number, piece in enumerate(self.pieces)
            if piece.origin == origin and piece.at == self.root and piece.finish is not None
        ]
        return sorted(found, key=self.rank)

    def rank(self, piece: int) -> tuple:
        """What pieces are ordered by: where each hangs, what it is, its sample."""
        key: list = []
        at: int | None = piece
        while at is not None:
            one = self.pieces[at]
            key.append((0 if one.at is None else one.at.end, one.kind, one.origin, one.sampling, one.sample))
            at = None if one.at is None else one.at.piece
        return tuple(key[::-1])


def new_draft(task: str, tree: str, prompt: np.ndarray, *, text: str, max_tokens: int, reading: Reading) -> Draft:
    """A tree of which there is no more than the prompt."""
    return Draft(task, tree, text, max_tokens, reading, [Piece(None, np.asarray(prompt, np.int32))])
