"""Inspect's logs, .eval archives and .json files: the messages of each sample, and its scores. Events are not read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from pipeline.exchange.conversation import ROLES, Call, Function, Message, Turn, conversation, text_of
from pipeline.exchange.document import Document, Fault, Number, as_json, licence_of
from pipeline.exchange.reading import Importer, Unit, members, said, whole

_GRADES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
"""What Inspect takes its letters for."""
_ATTACHED = "attachment://"
_COMPACTED = "the log says that messages before were compacted"
_LEFT_OUT = ("messages", "events", "attachments", "input", "output", "events_data", "store", "timelines", "transcript")


class ToolCall(msgspec.Struct):
    """A call; arguments: an object."""

    function: str
    id: str | None = None
    arguments: dict[str, Any] | None = None


class ToolError(msgspec.Struct):
    """Why a call failed."""

    message: str = ""


class ChatMessage(msgspec.Struct):
    """A message of a sample."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    error: ToolError | None = None


class Score(msgspec.Struct):
    """What a scorer said."""

    value: bool | Number | str | list[Any] | dict[str, Any] | None = None


class Event(msgspec.Struct):
    """Only its kind is looked at."""

    event: str = ""


class Output(msgspec.Struct):
    """What the model said last."""

    model: str | None = None


class Sample(msgspec.Struct):
    """A sample of a log."""

    messages: list[ChatMessage]
    target: str | list[str] | None = None
    scores: dict[str, Score] | None = None
    attachments: dict[str, str] = {}
    events: list[Event] = []
    output: Output | None = None


class Log(msgspec.Struct):
    """A log that is one file."""

    samples: list[msgspec.Raw]


def units(path: Path) -> Iterator[Unit]:
    """The samples of an archive, or a log of JSON as it is."""
    if path.suffix != ".eval":
        yield from whole(path)
        return
    for _, unit in members(path, lambda name: name.startswith("samples/") and name.endswith(".json")):
        yield unit


def parse(data: bytes) -> Iterator[Document | Fault]:
    """A document a sample."""
    if b'"samples"' not in data:
        yield _sample(data)
        return
    try:
        samples = msgspec.json.decode(data, type=Log).samples
    except msgspec.ValidationError:
        yield _sample(data)
        return
    for number, raw in enumerate(samples):
        try:
            yield _sample(bytes(raw))
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            yield Fault(0, f"sample {number}: {said(error)}")


def _sample(data: bytes) -> Document:
    raw = msgspec.json.decode(data)
    sample = msgspec.convert(raw, Sample)
    turns = [Turn(message=_message(message, sample.attachments), said={}) for message in sample.messages]
    answers = [turn for turn in turns if turn.message.role == "assistant"]
    if answers and any(event.event == "compaction" for event in sample.events):
        answers[0].before = _COMPACTED
    if turns and turns[-1].message.role == "assistant":
        turns[-1].finish = "stop"
    scores = {name: _number(score.value) for name, score in (sample.scores or {}).items()}
    known = [value for value in scores.values() if value is not None]
    return conversation(
        turns,
        record={name: raw[name] for name in raw if name not in _LEFT_OUT},
        reward=known[0] if known else None,
        components=as_json(scores) if known else None,
        answer=sample.target if isinstance(sample.target, str) else None,
        model=sample.output.model if sample.output else None,
        licence=licence_of(raw.get("metadata")),
    )


def _message(found: ChatMessage, attachments: dict[str, str]) -> Message:
    text = text_of(found.content) or (found.error.message if found.error else "")
    if text.startswith(_ATTACHED):
        text = attachments.get(text.removeprefix(_ATTACHED), text)
    calls = [Call(Function(call.function, call.arguments), call.id) for call in found.tool_calls or ()]
    role = found.role if found.role in ROLES else "user"
    return Message(role=role, content=text, tool_calls=calls or None, tool_call_id=found.tool_call_id)


def _number(value: Any) -> float | None:
    """A score as a number; None where it is none."""
    if isinstance(value, str):
        return _GRADES.get(value)
    return float(value) if isinstance(value, bool | int | float) else None


IMPORTER = Importer(parse, units, (".eval", ".json"))
