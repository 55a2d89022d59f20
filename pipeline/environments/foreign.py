"""Environments that others wrote, in processes beside this one, where one may hang or die without harm to the others.

An episode lives in one process and is known by what was done in it, so that it can be brought back when its process
was killed for another's sake, where it is replayable. What crosses over is checked and cut on the other side. Not a
sandbox: the environment is the user's own choice.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import TimeoutError as Late
from copy import copy
from itertools import count
from multiprocessing.util import Finalize
from typing import Any

from pebble import ProcessExpired, ProcessPool

from pipeline.environments.protocol import (
    BadStep,
    Environment,
    Observation,
    Step,
    Task,
    checked_observation,
    checked_step,
)

PROCESSES = 2
_live: dict[int, tuple[Environment, int]] = {}
"""In a process beside: the environment of each episode, and how many actions it has taken."""


class Host:
    """Processes for foreign environments, started when they are first needed.

    make:    makes an environment there; must be picklable.
    seconds: that an action may take; the first of an episode also starts its process.
    """

    def __init__(self, make: Callable[[], Environment], *, seconds: float, processes: int = PROCESSES):
        self._make, self._seconds = make, seconds
        self._pools: list[ProcessPool | None] = [None] * processes
        self._numbers, self._places, self._starting = count(), count(), threading.Lock()

    def new_episode(self, *, beside: int | None = None) -> int:
        """A number for an episode; `beside` another: in the same process."""
        number = next(self._numbers) * len(self._pools)
        place = next(self._places) if beside is None else beside
        return number + place % len(self._pools)

    def reached(self, episode: int, task: Task, seed: int, actions: tuple[str, ...]) -> Observation | Step:
        """What is seen after some actions: those that were not taken yet are taken.

        Raises:
            BadStep: the environment raised, took too long, died, or gave what it may not.
        """
        return self._told(episode, _reach, (self._make, episode, task, seed, actions))

    def copy(self, episode: int, actions: tuple[str, ...]) -> int | None:
        """The number of another episode that stands where one does after some actions; None where it cannot be copied.

        Raises:
            BadStep: as `reached`.
        """
        other = self.new_episode(beside=episode)
        return other if self._told(episode, _copy, (episode, other, len(actions))) else None

    def _told(self, episode: int, ask: Callable[..., Any], args: tuple) -> Any:
        """What comes of something done in an episode's process."""
        place = episode % len(self._pools)
        with self._starting:
            pool = self._pools[place] = self._pools[place] or _started()
        try:
            found = pool.schedule(ask, args=args, timeout=self._seconds).result()
        except Late as error:
            raise BadStep(f"the environment takes over {self._seconds:g} s") from error
        except ProcessExpired as error:
            raise BadStep(f"the environment's process died: {error}") from error
        except RuntimeError as error:
            self._pools[place] = None
            raise BadStep(f"the environment's process does not start: {error}") from error
        if isinstance(found, str):
            raise BadStep(found)
        return found

    def forget(self, episode: int) -> None:
        """Close the environment of an episode."""
        pool = self._pools[episode % len(self._pools)]
        if pool is None:
            return
        with contextlib.suppress(RuntimeError):  # it has ended, and with it what it held
            pool.schedule(_forget, args=(episode,), timeout=self._seconds)


class Foreign:
    """An episode in a process beside this one.

    said: its seats, instructions and judge, and whether it is replayable.
    """

    def __init__(
        self,
        host: Host,
        *,
        seats: tuple[str, ...],
        instructions: tuple[str, ...],
        judge: str,
        replayable: bool = True,
    ):
        self.seats, self.instructions, self.judge, self.replayable = seats, instructions, judge, replayable
        self._host, self._episode = host, host.new_episode()

    def reset(self, task: Task, seed: int) -> Observation:
        self._task, self._seed, self._actions = task, seed, ()
        return self._host.reached(self._episode, task, seed, ())

    def step(self, action: str) -> Step:
        self._actions = (*self._actions, action)
        return self._host.reached(self._episode, self._task, self._seed, self._actions)

    def copy(self) -> Foreign | None:
        number = self._host.copy(self._episode, self._actions)
        if number is None:
            return None
        other = copy(self)
        other._episode = number
        return other

    def close(self) -> None:
        self._host.forget(self._episode)


def _started() -> ProcessPool:
    pool = ProcessPool(max_workers=1, context=multiprocessing.get_context("spawn"))
    # Not atexit: a process of multiprocessing waits for its children before it comes to that.
    Finalize(None, _end, args=(pool,), exitpriority=10)
    return pool


def _end(pool: ProcessPool) -> None:
    pool.stop()
    pool.join()


def _reach(
    make: Callable[[], Environment], episode: int, task: Task, seed: int, actions: tuple[str, ...]
) -> Observation | Step | str:
    """Runs in the process beside; the words of an error, whose type may not pass between processes."""
    try:
        environment, taken = _live.pop(episode, (None, 0))
        if environment is None or not actions or taken >= len(actions):
            lost, environment, taken = environment is None and len(actions) > 1, environment or make(), 0
            if lost and not environment.replayable:
                raise BadStep("its process was ended, and it cannot be replayed")
            found = checked_observation(environment.reset(task, seed), seats=len(environment.seats))
        for action in actions[taken:]:
            found = checked_step(environment.step(action), seats=len(environment.seats))
        _live[episode] = environment, len(actions)
        return found
    except Exception as error:  # noqa: BLE001 - whatever a foreign environment raises
        return f"{type(error).__name__}: {error}"[:300]


def _copy(episode: int, other: int, taken: int) -> bool | str:
    """Runs in the process beside: whether a copy stands there now; or the words of an error."""
    try:
        environment, at = _live.get(episode, (None, 0))
        made = environment.copy() if environment is not None and at == taken else None
        if made is not None:
            _live[other] = made, taken
        return made is not None
    except Exception as error:  # noqa: BLE001 - whatever a foreign environment raises
        return f"{type(error).__name__}: {error}"[:300]


def _forget(episode: int) -> None:
    environment, _ = _live.pop(episode, (None, 0))
    if environment is not None:
        environment.close()
