"""A task's tree of searches (TreePS-RAG): an episode that parts before every turn, a level at a time.

Siblings share what they were shown; each acts in an environment of its own. Knows no engine and no file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import NamedTuple

from pipeline.environments.episode import Episode, Seat, Shown
from pipeline.environments.protocol import Environment, Stand, replay
from pipeline.environments.tool_calls import made, retrieved
from pipeline.environments.wants import Act, Playing, Together
from pipeline.trees.growth.treeps_rag import PRUNED, SearchGrowth

LAST = "Call nothing now. End with the answer alone: #### answer"
"""What an open branch is told before its last turn."""


class _Branch(NamedTuple):
    """A branch that has not ended. shown: what it is told next. parent: place in the level before of the one that it
    and its siblings parted from.
    """

    episode: Episode
    stand: Stand
    shown: Shown
    parent: int = 0


@dataclass(slots=True, eq=False)
class Searches:
    """A task's tree.

    episode: of one seat, not begun; its rules let it have `growth.depth` turns.
    make: another environment of its kind, for where its own cannot be copied.
    """

    episode: Episode
    growth: SearchGrowth
    make: Callable[[], Environment]
    _held: list[Environment] = field(default_factory=list)

    @property
    def seats(self) -> list[Seat]:
        """As the episode's."""
        return self.episode.seats

    def play(self) -> Playing:
        """Grow it to the end, and give all environments back; also where it is given up."""
        self._held.append(self.episode.environment)
        try:
            level = self._left_open([self.episode], [(yield from self.episode.begin())])
            for turn in range(1, self.growth.depth + 1):
                candidates = self.growth.candidates if turn < self.growth.depth else 1
                level = self._chosen((yield from self._drawn(level, candidates)))
            self._forget_failures()
        finally:
            for environment in self._held:
                environment.close()

    def _drawn(self, level: Sequence[_Branch], count: int) -> Playing:
        """Take so many turns from each branch of a level. Returns the branches that they leave open, siblings in a row.

        Draws after the same tokens are told apart by their samples, and else are those of any other tree.
        """
        times: Counter[bytes] = Counter()
        parts = []
        for place, branch in enumerate(level):
            prompt = branch.shown.prompt.tobytes()
            parts.append(self._parted(branch, place, range(times[prompt], times[prompt] + count)))
            times[prompt] += count
        return list(chain.from_iterable((yield Together(parts)))) if parts else []

    def _parted(self, branch: _Branch, place: int, samples: Sequence[int]) -> Playing:
        """Take turns from a branch, one a sample. Returns the branches that they leave open."""
        own = branch.episode
        environments = [own.environment]
        if len(samples) > 1:
            done = yield Act(partial(self._beside, branch, len(samples) - 1))
            if done.error:
                own.fail(done.error)
                self._give_back(own)
                return []
            environments += done.value
        episodes = [own.part(*one) for one in zip(samples, environments, strict=True)]
        stands = yield Together([episode.turn(branch.stand, branch.shown) for episode in episodes])
        return self._left_open(episodes, stands, parent=place)

    def _beside(self, branch: _Branch, count: int) -> list[Environment]:
        """So many environments that stand where a branch does: copies, or else fresh ones that went its way again.

        Raises:
            BadStep: as `replay`; and whatever an environment raises.
        """
        episode, found = branch.episode, []
        for _ in range(count):
            copied = episode.environment.copy()
            found.append(self.make() if copied is None else copied)
            self._held.append(found[-1])
            if copied is None:
                way = episode.passed(branch.stand)
                for _ in replay(found[-1], episode.task, way, seed=episode.seed):
                    pass
        return found

    def _left_open(
        self, episodes: Sequence[Episode], stands: Sequence[Stand | None], *, parent: int = 0
    ) -> list[_Branch]:
        """The episodes that go on, since they have not ended and there is room for another turn."""
        found = []
        for episode, stand in zip(episodes, stands, strict=True):
            shown = None if stand is None else episode.show(stand)
            if shown is None:
                self._give_back(episode)
            else:
                found.append(_Branch(episode, stand, shown, parent))
        return found

    def _chosen(self, level: Sequence[_Branch]) -> list[_Branch]:
        """Those that go on. The others are no ends of an attempt, and nobody judges them."""
        story = self.seats[0].story
        pieces = [branch.episode.seats[0].turns[-1] for branch in level]
        calls = [story.marks[piece]["tool_calls"] or "[]" for piece in pieces]
        tokens = [story.draft.pieces[piece].token_ids.tobytes() for piece in pieces]
        said = [made(one) or plain for one, plain in zip(calls, tokens, strict=True)]
        documents = [retrieved(one) for one in calls]
        choice = self.growth.choose([branch.parent for branch in level], said, documents)
        for place, piece in enumerate(pieces):
            story.draft.pieces[piece].finish = None
            if choice.pruned[place] or documents[place] is not None:
                story.draft.score(PRUNED, story.draft.end_of(piece), float(choice.pruned[place]))
            if place not in choice.kept:
                self._give_back(level[place].episode)
        return [level[place] for place in choice.kept]

    def _give_back(self, episode: Episode) -> None:
        self._held.remove(episode.environment)
        episode.environment.close()

    def _forget_failures(self) -> None:
        """A turn whose request failed ends what came before it only where no sibling went on from there."""
        story = self.seats[0].story
        if story.draft is not None:
            gone_on = {piece.at.piece for piece in story.draft.pieces if piece.at is not None}
            story.endings = [ending for ending in story.endings if ending.piece not in gone_on]
