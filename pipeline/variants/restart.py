"""Where a retry begins again: the guided and the distilled transcript of a dialogue, and the way back to the pivot.

The guided transcript holds the guidance, the distilled one is the same without it. Knows no environment: whatever takes
actions can be brought back to where it was.

Source: R^3L (Shi et al., 2026), step 5 of its generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from pipeline.prompts import Messages

HEADING = "# Lessons from an earlier attempt"


class Restart(NamedTuple):
    """The messages that a retry goes on from, with the guidance and without it."""

    guided: Messages
    distilled: Messages


def restart_messages(messages: Messages, pivot: int, guidance: str) -> Restart:
    """Copy a dialogue up to the observation before the assistant's turn `pivot`, and put the guidance in.

    Args:
        messages: of the attempt, the system message first where there is one.
        pivot: 0-based turn of the assistant that is made anew. 0: the guidance joins the system message under
            HEADING; else it is a system message of its own at the end.

    Raises:
        ValueError: the assistant had no such turn.
    """
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if not 0 <= pivot < len(turns):
        raise ValueError(f"turn {pivot} is none of the assistant's {len(turns)}")
    kept = [dict(message) for message in messages[: turns[pivot]]]
    if pivot:
        return Restart([*kept, {"role": "system", "content": guidance}], kept)
    lessons = f"{HEADING}\n{guidance}"
    if kept and kept[0]["role"] == "system":
        first = {"role": "system", "content": f"{kept[0]['content']}\n\n{lessons}"}
        return Restart([first, *kept[1:]], kept)
    return Restart([{"role": "system", "content": lessons}, *kept], kept)


class Restorable(Protocol):
    """What a retry is made in. `step` says whether the episode has ended."""

    def reset(self) -> object: ...

    def step(self, action: str) -> bool: ...


def replay(environment: Restorable, actions: Sequence[str]) -> bool:
    """Bring an environment back to where it was after some actions, from its beginning.

    Returns:
        Whether the episode goes on from there; False where it ended on the way, and then there is nothing to retry.
    """
    environment.reset()
    return not any(environment.step(action) for action in actions)
