"""Monte Carlo tree search over steps, by GroundedPRM's rules.

A child is one draw. Engines do not stop at the end of a step, so what was decoded beyond the draw's first step is its
simulation: every child has one, it costs nothing more, and every token that was decoded stays in the tree.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.credit.groundedprm import (
    GroundedprmParams,
    backpropagate,
    outcomes,
    rollout_rewards,
    select_child,
    uct_scores,
)
from pipeline.errors import check_counts, check_words
from pipeline.generation.engine import Sampling
from pipeline.trees.draft import Ask, Draft, Spot
from pipeline.trees.strategy import Growing, gather

VerdictOf = Callable[[Draft, Spot, str], int | None]
"""What a judge says of the step that ends at a place, by its text: 1 right, -1 wrong, 0 could not be read, None not
asked."""


JUDGES = ("tool", "none")
"""The equations of a step, worked out exactly, where it has any; nobody."""


def unjudged(draft: Draft, spot: Spot, text: str) -> int | None:
    """No judge: what counts is the outcome."""
    return None


@dataclass(slots=True)
class _Node:
    """A step that may be gone on from. closed: nothing more is to be found below."""

    spot: Spot
    parent: int
    step: bytes
    terminal: bool
    children: list[int] = field(default_factory=list)
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Mcts:
    """rounds: expansions a task; going to a step at which an answer ends uses one. children: draws an expansion.

    depth: steps of a simulation, after which it counts as wrong; 0: to the end, since it is decoded whole anyway.
    enough: right answers, and wrong ones, after which a task is done.
    selection: `uct` or `random`. exploration: of `uct`. decay: of a reward, a level up.
    judge: word of JUDGES, of whom whoever runs the search hands in; alone, it has none.

    Source: GroundedPRM (2025): 8 rounds and depth 5 for easy tasks, 12 and 9 for hard ones. Deviations: all children
        are simulated; draws with the same first step are one child, with a rollout each; a step at which an answer ends
        is gone to once; ends are those of answers, and steps that repeat the one before, since steps have no box.
    """

    rounds: int = 8
    children: int = 3
    depth: int = 0
    enough: int = 3
    selection: str = "uct"
    exploration: float = 1.414
    decay: float = 0.9
    judge: str = "tool"
    temperature: float = 1.0
    top_p: float = 1.0

    needs_rewards = True
    by_step = True

    def __post_init__(self):
        check_counts(self, rounds=1, children=1, depth=0, enough=1)
        check_words(self, of="mcts", judge=JUDGES)
        self.params()

    def params(self) -> GroundedprmParams:
        """As the credit method has them."""
        return GroundedprmParams(decay=self.decay, exploration=self.exploration, selection=self.selection)

    def grow(self, draft: Draft, verdict_of: VerdictOf = unjudged) -> Growing:
        """Search; with a judge as `Informed` rules."""
        search = _Search(self, self.params(), draft, verdict_of)
        for turn in range(self.rounds):
            node = search.select(turn)
            if search.nodes[node].terminal:
                search.close(node)
            else:
                spot = search.nodes[node].spot
                sampling = Sampling(self.temperature, self.top_p, draft.left(spot))
                origin = "branch" if node else "sample"
                answers = yield from gather(Ask(spot, sample, sampling, origin) for sample in range(self.children))
                search.expand(node, [answer.piece for answer in answers if answer.piece is not None])
            if search.done:
                return


class _Search:
    """One task's search: row 0 is the prompt."""

    def __init__(self, rules: Mcts, params: GroundedprmParams, draft: Draft, verdict_of: VerdictOf):
        self._rules, self._params, self._draft, self._verdict_of = rules, params, draft, verdict_of
        self.nodes = [_Node(draft.root, -1, b"", terminal=draft.left(draft.root) < 1)]
        self._value, self._visits = np.zeros(1), np.zeros(1, np.int64)
        self._right = self._wrong = 0

    @property
    def done(self) -> bool:
        """Whether enough was found, or nothing is left to find."""
        return self.nodes[0].closed or min(self._right, self._wrong) >= self._rules.enough

    def select(self, turn: int) -> int:
        """Go down to a step that was not expanded. Once enough is right, what looks wrong is gone to."""
        row = level = 0
        while below := [child for child in self.nodes[row].children if not self.nodes[child].closed]:
            scores = uct_scores(
                self._value[below],
                self._visits[below],
                above=float(self._visits[row]),
                negative=self._right >= self._rules.enough,
                params=self._params,
            )
            seed = zlib.crc32(f"{self._draft.task}|{turn}|{level}".encode())
            row, level = below[select_child(scores, seed=seed, params=self._params)], level + 1
        return row

    def expand(self, row: int, pieces: Sequence[int]) -> None:
        """Hang draws below a step, and carry what came of each up to the root. A step without any is closed."""
        children = [self._child(row, piece) for piece in pieces]
        if not children:
            self.close(row)
            return
        self._value = np.pad(self._value, (0, len(self.nodes) - len(self._value)))
        self._visits = np.pad(self._visits, (0, len(self.nodes) - len(self._visits)))
        judged = [
            (child, piece)
            for child, piece in zip(children, pieces, strict=True)
            if self._draft.pieces[piece].reward is not None
        ]
        if not judged:
            return
        right, verdicts = zip(*(self._simulated(piece) for _, piece in judged), strict=True)
        self._right += sum(right)
        self._wrong += len(right) - sum(right)
        offsets = np.cumsum([0, *map(len, verdicts)])
        rewards = rollout_rewards(np.concatenate(verdicts), offsets, outcomes(np.array(right), self._params))
        self._value, self._visits = backpropagate(
            np.array([node.parent for node in self.nodes]),
            value=self._value,
            visits=self._visits,
            expanded=np.array([child for child, _ in judged]),
            rewards=rewards,
            params=self._params,
        )

    def close(self, row: int) -> None:
        """Go to a step no more, nor to those above it below which nothing is left."""
        while row >= 0 and all(self.nodes[child].closed for child in self.nodes[row].children):
            self.nodes[row].closed = True
            row = self.nodes[row].parent

    def _child(self, row: int, piece: int) -> int:
        """The node of a draw's first step; one that is there already if the tokens are the same."""
        ids = self._draft.pieces[piece].token_ids
        steps = self._draft.reading.steps(ids)
        end = steps[0].end if steps else 0
        step = ids[:end].tobytes()
        for child in self.nodes[row].children:
            if self.nodes[child].step == step:
                return child
        ends = end == len(ids) or step == self.nodes[row].step or self._draft.left(Spot(piece, end)) < 1
        self.nodes.append(_Node(Spot(piece, end), row, step, terminal=ends))
        self.nodes[row].children.append(len(self.nodes) - 1)
        return len(self.nodes) - 1

    def _simulated(self, piece: int) -> tuple[bool, np.ndarray]:
        """Whether a draw came out right, and the verdicts on its simulated steps; the last is not asked for."""
        steps = self._draft.reading.steps(self._draft.pieces[piece].token_ids)[1:]
        within = steps[: self._rules.depth] if self._rules.depth else steps
        said = [self._verdict_of(self._draft, Spot(piece, step.end), step.text) for step in within[:-1]]
        verdicts = np.array([*said, None][: len(within)], dtype=np.float64)
        return len(within) == len(steps) and self._draft.pieces[piece].reward >= 1, verdicts
