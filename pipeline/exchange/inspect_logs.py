"""Inspect's logs, .eval archives and .json files: the messages of each sample, its scores, and its branches.

Of events only the model calls on branches are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pipeline.exchange.conversation import Call, Function, Message, Turn, conversation, role_of, text_of
from pipeline.exchange.document import Document, Fault, Number, Refused, as_json, licence_of
from pipeline.exchange.inspect_branches import Branch, Event, branches
from pipeline.exchange.reading import Importer, members, whole
from pipeline.exchange.units import Unit, said

_GRADES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
"""What Inspect takes its letters for."""
_ATTACHED = "attachment://"
_COMPACTED = "the log says that messages before were compacted"
_ELSEWHERE = "on this branch the log has other messages before"
_encode = msgspec.json.Encoder().encode
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
    content: str | list[str | dict[str, Any]] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    error: ToolError | None = None


class Score(msgspec.Struct):
    """What a scorer said."""

    value: bool | Number | str | list[Any] | dict[str, Any] | None = None


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
    events_data: Any = None
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
    """A document a sample, and one for the end of each of its branches."""
    if b'"samples"' not in data:
        yield from _sample(data)
        return
    try:
        samples = msgspec.json.decode(data, type=Log).samples
    except msgspec.ValidationError:
        yield from _sample(data)
        return
    for number, raw in enumerate(samples):
        try:
            yield from _sample(bytes(raw))
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            yield Fault(0, f"sample {number}: {said(error)}")


def _sample(data: bytes) -> Iterator[Document | Fault]:
    raw = msgspec.json.decode(data)
    sample = msgspec.convert(raw, Sample)
    of_task = {
        "answer": sample.target if isinstance(sample.target, str) else None,
        "model": sample.output.model if sample.output else None,
        "licence": licence_of(raw.get("metadata")),
    }
    yield _path(raw, sample, **of_task)
    named = {name: raw[name] for name in ("id", "epoch", "uuid") if name in raw}
    try:
        for branch in branches(sample.events, sample.events_data):
            yield from _branch(branch, sample, named, **of_task)
    except Refused as error:
        yield Fault(0, f"sample {raw.get('id')}: {error}")


def _branch(branch: Branch, sample: Sample, named: dict[str, Any], **of_task: Any) -> Iterator[Document | Fault]:
    """Its ends: conversations that neither a later call nor the sample goes on from, where they ask the same."""
    at = f"sample {named.get('id')}, branch from {branch.anchor}"
    if not branch.calls:
        yield Fault(0, f"{at}: no model call is in it")
    try:
        calls = [_messages(msgspec.convert(call, list[ChatMessage]), sample) for call in branch.calls]
    except msgspec.ValidationError as error:
        yield Fault(0, f"{at}: {error}")
        return
    known = _messages(sample.messages, sample)
    asked = next((place for place, message in enumerate(known) if message.role == "assistant"), len(known))
    seen: dict[tuple[int, bytes], int] = {}
    _passed(seen, known)
    ends = [call for call in reversed(calls) if _passed(seen, call)]
    for call in reversed(ends):
        if call[:asked] != known[:asked]:
            yield Fault(0, f"{at}: a model was asked something else than the sample is about")
            continue
        turns = _turns(call, sample)
        if call[asked].role != "assistant":
            turns[asked].before = _ELSEWHERE
        yield conversation(turns, record={**named, "branch": branch.anchor}, **of_task)


def _passed(seen: dict[tuple[int, bytes], int], messages: Sequence[Message]) -> bool:
    """Put a conversation among those seen, a tree of messages by the place they follow; whether it says more."""
    before, at = len(seen), 0
    for message in messages:
        at = seen.setdefault((at, _encode(message)), len(seen) + 1)
    return at > before


def _path(raw: dict[str, Any], sample: Sample, **of_task: Any) -> Document:
    """The sample's own messages."""
    scores = {name: _number(score.value) for name, score in (sample.scores or {}).items()}
    known = [value for value in scores.values() if value is not None]
    return conversation(
        _turns(_messages(sample.messages, sample), sample),
        record={name: raw[name] for name in raw if name not in _LEFT_OUT},
        reward=known[0] if known else None,
        components=as_json(scores) if known else None,
        **of_task,
    )


def _messages(found: Sequence[ChatMessage], sample: Sample) -> list[Message]:
    return [_message(message, sample.attachments) for message in found]


def _turns(messages: Sequence[Message], sample: Sample) -> list[Turn]:
    turns = [Turn(message=message, said={}) for message in messages]
    answers = [turn for turn in turns if turn.message.role == "assistant"]
    if answers and any(event.event == "compaction" for event in sample.events):
        answers[0].before = _COMPACTED
    if turns and turns[-1].message.role == "assistant":
        turns[-1].finish = "stop"
    return turns


def _message(found: ChatMessage, attachments: dict[str, str]) -> Message:
    text = text_of(found.content) or (found.error.message if found.error else "")
    if text.startswith(_ATTACHED):
        text = attachments.get(text.removeprefix(_ATTACHED), text)
    calls = [Call(Function(call.function, call.arguments), call.id) for call in found.tool_calls or ()]
    role = role_of(found.role, "user")
    return Message(role=role, content=text, tool_calls=calls or None, tool_call_id=found.tool_call_id)


def _number(value: Any) -> float | None:
    """A score as a number; None where it is none."""
    if isinstance(value, str):
        return _GRADES.get(value)
    return float(value) if isinstance(value, bool | int | float) else None


IMPORTER = Importer(parse, units, (".eval", ".json"))
