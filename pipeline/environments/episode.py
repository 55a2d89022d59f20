"""One episode as a generator: it asks for turns of a policy and for steps of its environment, and keeps what was said.

Each seat has a dialogue of its own, in tokens exactly as they were sent and sampled. Knows no engine and no file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline.environments.players import Player
from pipeline.environments.protocol import (
    Environment,
    Observation,
    Passed,
    Stand,
    Step,
    Task,
    checked_observation,
    checked_step,
)
from pipeline.environments.story import Ending, Story
from pipeline.environments.wants import Act, Draw, Playing
from pipeline.generation.budget.turn_control import Limits, reminder
from pipeline.generation.engine import Sampling, check_sampling
from pipeline.prompts import Messages
from pipeline.store.ledger import Entry
from pipeline.tasks.verifiers import Verdict
from pipeline.trees.draft import Ask, Spot

if TYPE_CHECKING:
    from pipeline.environments.chat import Chat


UNLIMITED = Limits(None, None)


@dataclass(frozen=True, slots=True)
class Rules:
    """When an episode ends that its environment does not end.

    limits:     turns of a seat before it is stopped or, once, granted more; it is told what is left.
    most_turns: of a seat, where there are no limits.
    loops:      times that the same may be done in the same state; the last of them ends the episode.
    invalid:    actions in a row that could not be taken; the last of them ends the episode.
    last:       what a seat is told before the last turn that it may have; where it is told, an attempt that a rule ends
        other than for its length earns nothing, whatever it said. Empty: nothing.
    most_tokens: of one turn. length: positions that the policy has.

    Raises:
        BadConfig: no turn can be drawn by this temperature or top_p.
    """

    limits: Limits = UNLIMITED
    most_turns: int = 20
    loops: int = 3
    invalid: int = 3
    last: str = ""
    temperature: float = 1.0
    top_p: float = 1.0
    most_tokens: int = 128
    length: int = 1024

    def __post_init__(self) -> None:
        check_sampling(self.temperature, self.top_p)


@dataclass(slots=True, eq=False)
class Seat:
    """Who takes turns in an episode.

    messages: what was said so far, as a chat template takes it.
    sent:     `[T]` int32, the context up to the last turn and with it.
    spot:     where that stands in the story; None before the first turn.
    turns:    pieces of its turns. unpaid: what it was paid before its first.
    player:   who takes its turns in the policy's place; None: the policy.
    guide:    puts into the messages before its next turn what it is told for that turn alone; None: nothing is.
    """

    story: Story
    messages: Messages
    sent: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    said: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    spot: Spot | None = None
    turns: list[int] = field(default_factory=list)
    unpaid: float = 0.0
    player: Player | None = None
    guide: Callable[[Messages], Messages] | None = None

    def pay(self, reward: float) -> None:
        """Add a reward to the latest turn, or to the first one to come."""
        if self.turns:
            self.story.marks[self.turns[-1]]["step_reward"] += reward
        else:
            self.unpaid += reward


class Shown(NamedTuple):
    """What a seat is told before a turn. messages: all that it was told by then. text: of the new ones. token_ids: what
    they add; with `begins`, all of a new context. prompt: all that is sent.
    """

    messages: Messages
    text: str
    token_ids: np.ndarray
    begins: bool
    prompt: np.ndarray


class Retold(NamedTuple):
    """A turn that was taken once. seen: before it. token_ids: `[T]` int32. columns: of its node, as they were."""

    seen: Observation
    token_ids: np.ndarray
    columns: dict[str, Any]


@dataclass(slots=True, eq=False)
class Episode:
    """An episode of a task.

    sample: index of its turns among the draws after the same tokens; no two episodes of a task that begin share one.
    judge:  the task's verifier.
    forfeit: paid to the seat with which a rule ends it, where the environment judges.
    seen:   what was seen before each turn so far.
    """

    sample: int
    environment: Environment
    task: Task
    seed: int
    seats: list[Seat]
    chat: Chat
    rules: Rules
    judge: Callable[[str], Verdict]
    forfeit: float = 0.0
    seen: list[Observation] = field(default_factory=list)
    _times: Counter[tuple[int, str, str]] = field(default_factory=Counter)

    def play(self) -> Playing:
        """Play from the beginning to the end, and give the environment back; also where it is given up."""
        try:
            stand = yield from self.begin()
            yield from self.go_on(stand)
        finally:
            self.environment.close()

    def begin(self) -> Playing:
        """Begin. Returns where it stands; None: it could not."""
        seats = len(self.seats)
        done = yield Act(lambda: checked_observation(self.environment.reset(self.task, self.seed), seats=seats))
        return self.fail(done.error) if done.error else Stand(done.value)

    def part(self, sample: int, environment: Environment) -> Episode:
        """Another episode on the same story, which goes on from here by itself.

        Args:
            sample: index of its turns. environment: stands where this one's does.
        """
        seats = [replace(seat, turns=[*seat.turns]) for seat in self.seats]
        parted = {"sample": sample, "environment": environment, "seats": seats}
        return replace(self, **parted, seen=[*self.seen], _times=self._times.copy())

    def passed(self, stand: Stand) -> list[Passed]:
        """The way to where it stands, for `replay`. For one seat alone."""
        (seat,) = self.seats
        said = [message["content"] for message in seat.messages if message["role"] == "assistant"]
        turns = zip([*self.seen, stand.seen], [*said, ""], strict=True)
        return [Passed(seen.state_key, action) for seen, action in turns]

    def retell(self, turn: Retold) -> None:
        """Hang a turn on the story that was taken once: as it was said, after what was seen. For one seat alone."""
        (seat,) = self.seats
        shown = self._show(seat, turn.seen, self._limit(seat))
        self._take(seat, shown, turn.token_ids, drawn=None, at=turn.columns)
        self._count(turn.seen, seat)

    def go_on(self, stand: Stand | None, *, written: str | None = None) -> Playing:
        """Play on to the end in an environment that stands there.

        Args:
            stand: None: it has ended.
            written: what is said first, in the place of whoever would say it; None: nothing is.
        """
        while stand is not None and (shown := self.show(stand)) is not None:
            stand = yield from self.turn(stand, shown, written=written)
            written = None

    def show(self, stand: Stand) -> Shown | None:
        """What is told before the turn that comes; None: there is no room for one, and the episode has ended."""
        seat, longest = self.seats[stand.seen.seat], self.rules.length
        limit = self._limit(seat)
        if len(seat.turns) >= limit:
            return self._stop(seat, "turns")
        shown = self._show(seat, stand.seen, limit)
        if len(shown.prompt) < longest:
            return shown
        if seat.turns:
            return self._stop(seat, "length")
        return self.fail(f"the first prompt has {len(shown.prompt)} tokens, the policy {longest} positions")

    def turn(self, stand: Stand, shown: Shown, *, written: str | None = None) -> Playing:
        """Take a turn. Returns where the episode stands then; None: it has ended.

        Args:
            shown: of `show`. written: as `go_on` has it.
        """
        rules, seats, seen = self.rules, self.seats, stand.seen
        seat, room = seats[seen.seat], rules.length - len(shown.prompt)
        at = {"turn": len(self.seen), "state_key": seen.state_key}
        player = seat.player if written is None else _saying(written)
        if player is None:
            sampling = Sampling(rules.temperature, rules.top_p, min(rules.most_tokens, room))
            entry = yield Draw(shown.prompt, sampling, self.sample)
            if entry.completion.error:
                return self.fail(f"the request failed: {entry.completion.error}")
            if not len(entry.completion.token_ids):
                return self.fail("the policy said nothing, not even that its turn ends")
            self._take(seat, shown, entry.completion.token_ids, drawn=(sampling, entry), at=at)
        else:
            done = yield Act(partial(player, seen))
            if done.error:
                return self.fail(done.error)
            said = self.chat.saying(done.value)
            if len(said) > room:
                return self._stop(seat, "length")
            self._take(seat, shown, said, drawn=None, at=at)
        times = self._count(seen, seat)
        if player is None and entry.completion.finish == "length":
            return self._stop(seat, "length")
        if times >= rules.loops:
            return self._stop(seat, "loop")
        done = yield Act(partial(self._step, seat.messages[-1]["content"]))
        if done.error:
            return self.fail(done.error)
        step: Step = done.value
        seat.story.marks[seat.turns[-1]]["tool_calls"] = step.calls
        if self.environment.judge != "nobody":
            for one, reward in zip(seats, step.rewards, strict=True):
                one.pay(reward)
        if step.done:
            return self._finish(seat, step)
        invalid = stand.invalid + 1 if step.invalid else 0
        if invalid >= rules.invalid:
            return self._stop(seat, "invalid")
        return Stand(step.observation, invalid)

    def fail(self, error: str) -> None:
        """It cannot go on: no verdict but why."""
        said = error[:200].encode(errors="replace").decode()
        for seat in self.seats:
            self._end(seat, "failed", Verdict(None, None, said))

    def _step(self, action: str) -> Step:
        return checked_step(self.environment.step(action), seats=len(self.seats))

    def _limit(self, seat: Seat) -> int:
        """Turns that a seat may have; more are granted when the first ones are used up."""
        first, last = self.rules.limits
        if first is None:
            return self.rules.most_turns
        return last if len(seat.turns) >= first else first

    def _reminded(self, text: str, seat: Seat, limit: int) -> str:
        left = limit - len(seat.turns)
        said = [text] if self.rules.limits.first is None else [text, reminder(left)]
        return "\n".join([*said, self.rules.last] if self.rules.last and left == 1 else said)

    def _count(self, seen: Observation, seat: Seat) -> int:
        """Note a turn; how often the same was done in the same state by now."""
        self.seen.append(seen)
        what = (seen.seat, seen.state_key, seat.messages[-1]["content"])
        self._times[what] += 1
        return self._times[what]

    def _show(self, seat: Seat, seen: Observation, limit: int) -> Shown:
        text = self._reminded(seen.shown, seat, limit)
        if seen.told and seat.story.draft is None:
            seat.story.text = seen.told
        messages = [*seat.messages, {"role": "user", "content": text}]
        if seat.guide is not None:
            messages = seat.guide(messages)
        if seat.spot is None:
            ids = self.chat.opening(messages)
            return Shown(messages, text, ids, begins=True, prompt=ids)
        fresh = messages[len(seat.messages) :]
        ids, rewritten = self.chat.following(seat.messages[:-1], seat.said.tolist(), *fresh)
        prompt = ids if rewritten else np.concatenate([seat.sent, ids])
        return Shown(messages, "\n\n".join(one["content"] for one in fresh), ids, begins=rewritten, prompt=prompt)

    def _take(
        self,
        seat: Seat,
        shown: Shown,
        said: np.ndarray,
        *,
        drawn: tuple[Sampling, Entry] | None,
        at: dict[str, Any],
    ) -> None:
        """Hang what was shown and what was said on the story.

        drawn: how the policy's tokens came; None: a player wrote them. at: columns of a node that say where this is.
        """
        story = seat.story
        if story.draft is None:
            story.begin(shown.prompt)
        if seat.spot is not None:
            told = story.shown.get(seat.spot) or self._tell(story, seat.spot, shown, turn=at["turn"])
            story.shown[seat.spot] = told
        elif np.array_equal(shown.prompt, story.draft.pieces[0].token_ids):
            told = 0
        else:
            told = self._tell(story, story.draft.root, shown, turn=at["turn"])
        spot = story.draft.end_of(told)
        if drawn is None:
            piece = story.draft.write(spot, said, origin="sample", kind="step", sample=self.sample)
        else:
            piece = story.draft.add(Ask(spot, self.sample, drawn[0]), drawn[1])
        paid = None if self.environment.judge == "nobody" else seat.unpaid
        story.marks[piece] = {"agent": story.agent, "step_reward": paid, **at}
        message = {"role": "assistant", "content": self.chat.text(said.tolist())}
        seat.messages, seat.guide = [*shown.messages, message], None
        seat.said, seat.sent = said, np.concatenate([shown.prompt, said])
        seat.spot, seat.unpaid = story.draft.end_of(piece), 0.0
        seat.turns.append(piece)

    def _tell(self, story: Story, spot: Spot, shown: Shown, *, turn: int) -> int:
        """Hang what was shown on a place. Returns its piece."""
        piece = story.draft.write(spot, shown.token_ids, origin="sample", kind="prompt", sample=self.sample)
        story.marks[piece] = {"turn": turn, "agent": story.agent, "text": shown.text}
        story.begins |= {piece} if shown.begins else set()
        return piece

    def _finish(self, seat: Seat, step: Step) -> None:
        """The environment has ended it."""
        finish = "invalid" if step.invalid else "stop"
        if self.environment.judge == "verifier":
            return self._judged(seat, finish, step.answer or "")
        for place, one in enumerate(self.seats):
            verdict = None if step.scores is None else Verdict(float(step.scores[place]), None, None)
            self._end(one, finish if one is seat else "stop", verdict)
        return None

    def _stop(self, seat: Seat, finish: str) -> None:
        """A rule has ended it: what there is is judged as it is, or as nothing where it was told to answer and did not;
        an unfinished game is lost to who ended it.
        """
        if self.environment.judge == "verifier":
            as_it_is = seat.turns and (finish == "length" or not self.rules.last)
            return self._judged(seat, finish, seat.messages[-1]["content"] if as_it_is else "")
        lost = self.environment.judge == "environment"
        if lost:
            seat.pay(self.forfeit)
        for one in self.seats:
            verdict = Verdict(0.0, None, None) if lost and one is seat else None
            self._end(one, finish if one is seat else "stop", verdict)
        return None

    def _judged(self, seat: Seat, finish: str, text: str) -> None:
        verdict = self.judge(text)
        if verdict.reward is not None and seat.turns:
            seat.pay(verdict.reward)
        self._end(seat, finish, verdict)

    def _end(self, seat: Seat, finish: str, verdict: Verdict | None) -> None:
        if not seat.turns:
            if finish != "failed" or seat is not self.seats[0]:
                return  # it never had a turn
            seat.story.unopened = self.chat.opening([*seat.messages, {"role": "user", "content": self.task.question}])
        seat.story.endings.append(Ending(seat.turns[-1] if seat.turns else 0, finish, verdict))


def _saying(text: str) -> Player:
    return lambda seen: text
