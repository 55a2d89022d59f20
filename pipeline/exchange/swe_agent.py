"""SWE-agent's trajectories (.traj): what was thought, done and seen, step by step. A demonstration is the prompt's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from pipeline.exchange.conversation import Message, Turn, conversation, role_of, text_of
from pipeline.exchange.document import Document, Refused, licence_of
from pipeline.exchange.reading import Importer, whole

_MISSING = "the trajectory has no history: what the policy was shown is not known"


class Entry(msgspec.Struct):
    """A message of the history."""

    role: str
    content: str | list[str | dict[str, Any]] | None = None
    is_demo: bool = False
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_ids: list[str] | None = None


class Step(msgspec.Struct):
    """A step."""

    response: str = ""
    observation: str = ""
    execution_time: float | None = None


class Trajectory(msgspec.Struct):
    """A file; a demonstration has a history alone."""

    trajectory: list[Step] = []
    history: list[Entry] = []
    info: dict[str, Any] = {}


def parse(data: bytes) -> Iterator[Document]:
    """The history as a chat; without one, what the steps say, below a gap.

    Raises:
        Refused: there are no steps.
    """
    found = msgspec.convert(msgspec.json.decode(data), Trajectory)
    turns = [_turn(entry) for entry in found.history]
    if all(turn.shown for turn in turns):  # the demonstration itself
        for turn in turns:
            turn.shown = False
    if not turns:
        for step in found.trajectory:
            turns.append(Turn(message=Message(role="assistant", content=step.response), said={}))
            turns.append(Turn(message=Message(role="tool", content=step.observation), said={}))
        if not turns:
            raise Refused("neither history nor steps")
        turns[0].before = _MISSING
    if str(found.info.get("exit_status", "")).startswith("submitted") and turns[-1].message.role == "assistant":
        turns[-1].finish = "stop"
    yield conversation(turns, record={"info": found.info} if found.info else None, licence=licence_of(found.info))


def _turn(entry: Entry) -> Turn:
    role = role_of(entry.role, "user")
    message = {"role": role, "content": text_of(entry.content)}
    if entry.tool_calls and role == "assistant":
        message["tool_calls"] = entry.tool_calls
    if role == "tool" and entry.tool_call_ids:
        message["tool_call_id"] = entry.tool_call_ids[0]
    return Turn(message=msgspec.convert(message, Message), said={}, shown=entry.is_demo)


IMPORTER = Importer(parse, whole, (".traj", ".json"))
