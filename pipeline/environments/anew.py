"""A stored episode gone again up to one of its turns, and made anew from there: by the policy alone, after a turn that
is written in its place, or with guidance that is taken out again.

Its way must lead past the states and the tokens that were recorded. Where the environment can be copied, a copy is kept
at each turn; else it goes the way once more. Knows no engine and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from pipeline.environments.episode import Episode, Retold, Seat
from pipeline.environments.protocol import Environment, Observation, Passed, Stand, replay
from pipeline.environments.story import Ending, Story
from pipeline.environments.trees import told
from pipeline.environments.wants import Act, Playing
from pipeline.prompts import Messages
from pipeline.trees.grow import Tree

CARRIED = ("turn", "agent", "state_key", "step_reward", "tool_calls", "logprobs", "request", "policy")
"""Columns of a turn that its copies have too."""
NOTHING: Mapping[str, str] = MappingProxyType({})
Make = Callable[[], Episode]
"""Sets an episode of the same task and seed up anew; its story is its own, its environment is not begun."""


class Turn(NamedTuple):
    """A turn of a stored episode. node: its number. sent: `[T]` int32, its context down to it and with it."""

    node: int
    sent: np.ndarray


@dataclass(slots=True, eq=False)
class Way:
    """The way of a stored episode of one seat.

    passed: what was done, by turn. stands: before each turn, once it was gone again.
    copies: of the environment there; None where it cannot be copied.
    """

    make: Make
    tree: Tree
    turns: Sequence[Turn]
    passed: list[Passed] = field(init=False)
    stands: list[Stand] = field(default_factory=list)
    copies: list[Environment | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        text, rows = self.blank().chat.text, [self.tree[turn.node] for turn in self.turns]
        self.passed = [Passed(row["state_key"], text(row["token_ids"])) for row in rows]

    def blank(self) -> Episode:
        """An episode that is told and not played: its environment is given back."""
        episode = self.make()
        episode.environment.close()
        return episode

    def go(self) -> None:
        """Go it again in a fresh environment.

        Raises:
            BadStep: as `replay`; and whatever the environment raises.
        """
        episode = self.make()
        try:
            for stand in replay(episode.environment, episode.task, self.passed, seed=episode.seed):
                self.stands.append(stand)
                self.copies.append(episode.environment.copy())
        finally:
            episode.environment.close()

    def astray(self) -> int | None:
        """The first turn that was sent other tokens than it would be now; None: none was."""
        episode = self.blank()
        for place, turn in enumerate(self.turns):
            episode.retell(self.retold(place))
            if not np.array_equal(episode.seats[0].sent, turn.sent):
                return place
        return None

    def retold(self, place: int) -> Retold:
        """A turn, to be hung on another story as a copy."""
        return copied(self.tree, self.turns[place].node, self.stands[place].seen)

    def before(self, place: int) -> int:
        """The node that a turn was drawn after: what was seen then."""
        return self.tree[self.turns[place].node]["parent"]

    def stand(self, place: int, episode: Episode) -> Environment:
        """An environment that stands before a turn, for an episode to go on from.

        Args:
            episode: it has not begun; its own environment goes there where no copy can be had, else it is closed.

        Raises:
            BadStep: as `replay`; and whatever the environment raises.
        """
        kept = self.copies[place]
        found = None if kept is None else kept.copy()
        if found is not None:
            episode.environment.close()
            return found
        for _ in replay(episode.environment, episode.task, self.passed[: place + 1], seed=episode.seed):
            pass
        return episode.environment

    def close(self) -> None:
        """Give back the copies."""
        for one in self.copies:
            if one is not None:
                one.close()
        self.copies = [None] * len(self.copies)


class Laid(NamedTuple):
    """A story in a tree. node_of: by piece, of those that are new there. turns: nodes of its turns, new ones alone."""

    story: Story
    node_of: dict[int, int]
    turns: list[int]


@dataclass(slots=True, eq=False)
class Anew:
    """An episode made anew from a turn on.

    sample:  index among the draws of an equal prompt.
    guide:   puts guidance into the messages before the turn; None: there is none.
    edit:    what is said at the turn in the policy's place; None: the policy says it.
    episode: as it was played. error: why there is nothing new; None where there is.
    """

    way: Way
    pivot: int
    sample: int
    guide: Callable[[Messages], Messages] | None = None
    edit: str | None = None
    episode: Episode = field(init=False)
    error: str | None = None

    def play(self) -> Playing:
        """Go to the turn, and play from there."""
        way = self.way
        self.episode = episode = way.make()
        episode.sample = self.sample
        done = yield Act(lambda: way.stand(self.pivot, episode))
        if done.error:
            self.error = f"not replayable: {done.error}"
            return
        episode.environment = done.value
        for place in range(self.pivot):
            episode.retell(way.retold(place))
        episode.seats[0].guide = self.guide
        yield from episode.go_on(way.stands[self.pivot], written=self.edit)
        if len(episode.seats[0].turns) == self.pivot:
            verdicts = [one.verdict for one in episode.seats[0].story.endings if one.verdict is not None]
            why = verdicts[0].error if verdicts else None  # an episode without a turn may end without a verdict
            self.error = why or f"no room for {'the guidance' if self.guide else 'the turn'}"

    @property
    def went_on(self) -> bool:
        """Whether the turn was taken and no failure ended the episode there, of a request or of the environment."""
        if self.error is not None:
            return False
        (seat,) = self.episode.seats
        return len(seat.turns) > self.pivot + 1 or seat.story.endings[-1].finish != "failed"

    def hang(self, *, origin: str) -> Laid:
        """Append the new turns below the node that the turn was drawn after, in the context that the episode has.

        An edit is an intervention of the editor. What stands there already, drawn by the same request or written alike,
        is taken.
        """
        (seat,) = self.episode.seats
        edit = {"origin": "intervention", "agent": "editor"} if self.edit is not None else {}
        below = self.way.before(self.pivot)
        return _append(self.way.tree, seat, self.pivot, below, origin=origin, first=edit, take=True)

    def lay(self, tree: Tree, below: int, *, text: str) -> Laid:
        """Append the guided transcript below a node, in a context of its own. text: of its first prompt, for people."""
        (seat,) = self.episode.seats
        seat.story.text = text
        return _append(tree, seat, None, below, origin="guided_retry")

    def distil(self, guided: Laid) -> Laid:
        """Append what the new turns are without the guidance, below the node that the turn was drawn after.

        Args:
            guided: the guided transcript.
        """
        plain, tree = self.way.blank(), self.way.tree
        (seat,), ((_, *how),) = plain.seats, guided.story.endings
        for place, node in enumerate(guided.turns):
            new = place >= self.pivot
            plain.retell(copied(tree, node, self.episode.seen[place]) if new else self.way.retold(place))
        seat.story.endings.append(Ending(seat.turns[-1], *how))
        return _append(tree, seat, self.pivot, self.way.before(self.pivot), origin="retry")


def copied(tree: Tree, node: int, seen: Observation) -> Retold:
    """A turn of a tree, to stand in another context."""
    row = tree[node]
    columns = {name: row[name] for name in CARRIED}
    return Retold(seen, np.asarray(row["token_ids"], np.int32), {**columns, "copied_from": node})


def _append(
    tree: Tree,
    seat: Seat,
    turn: int | None,
    below: int,
    *,
    origin: str,
    first: Mapping[str, str] = NOTHING,
    take: bool = False,
) -> Laid:
    """Append a story of one episode below a node, from a turn on; None: its first prompt too.

    Args:
        first: columns of the first node alone. take: nodes that stand there already are taken.
    """
    scratch, node_of = told(seat.story)
    begin = 0 if turn is None else node_of[seat.turns[turn]]
    at: dict[int, int] = {}
    for row in scratch.nodes[begin:]:
        above = at.get(row["parent"], below)
        begins = row["context"] == row["node"]
        columns = {
            **{name: value for name, value in row.items() if name not in _PLACED},
            "context": len(tree) if begins else tree[above]["context"],
            "origin": "prompt" if row["parent"] is None else origin,
            **(first if row["node"] == begin else {}),
        }
        stands = _alike(tree, above, row) if take else None
        at[row["node"]] = stands or tree.add(above, **columns)
    placed = {piece: at[node] for piece, node in node_of.items() if node in at}
    return Laid(seat.story, placed, [placed[piece] for piece in seat.turns[turn or 0 :]])


def _alike(tree: Tree, above: int, row: dict[str, Any]) -> int | None:
    """The node that hangs below another and is the same draw, or the same that was written or shown."""
    found = (tree[child] for child in tree.children(above))
    return next((one["node"] for one in found if all(one[name] == row[name] for name in _SAME)), None)


_PLACED = ("tree", "node", "parent", "context", "depth", "origin")
"""Columns that say where a node is."""
_SAME = ("kind", "sampled", "request", "token_ids", "finish", "copied_from")
"""Columns that are equal of two nodes that may be one."""
