"""Session files of agents: the Hub's own format, Claude Code's, Codex' and Pi's, told apart line by line; written as
the Hub's, with what restores the tree under one reserved key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from pipeline.exchange.conversation import (
    Call,
    Custom,
    Function,
    Message,
    Turn,
    conversation,
    in_order,
    role_of,
    text_of,
)
from pipeline.exchange.document import TEMPLATE, Document, Fault, Refused, Restored, licence_of
from pipeline.exchange.paths import Exporter, Line, Path, Said
from pipeline.exchange.reading import Importer, said, strict, whole
from pipeline.exchange.references import KEY, restored

_ROLES = {"developer": "system"}
"""The Hub's words for roles, where they are others."""
_RESULT = "toolResult"
"""Pi's word for a tool's role."""
_COMPACTED = "what came before was compacted"
_RESULTS = ("function_call_output", "custom_tool_call_output", "local_shell_call_output")
_CALLS = ("function_call", "custom_tool_call", "local_shell_call")


class Entry(msgspec.Struct, kw_only=True):
    """A line: its messages, its name and that of the line before it; `linked` where it names lines at all."""

    number: int
    messages: list[Message] = []
    id: str | None = None
    parent: str | None = None
    linked: bool = False
    compacted: bool = False


def parse(data: bytes) -> Iterator[Document | Restored | Fault]:
    """One session. Branches of it hang from the same tree; lines of other kinds are passed over.

    Raises:
        Refused: no line is a message, or an exported session lacks its first line.
    """
    entries: list[Entry] = []
    head: dict[str, Any] = {}
    references: list[Any] = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line or line.isspace():
            continue
        try:
            raw = msgspec.json.decode(strict(line), type=dict[str, Any])
            if raw.get("type") in ("session", "session_meta") and not head:
                head = raw
            elif KEY in raw:
                references.append(raw)
            else:
                entries.append(_entry(raw, number))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, Refused) as error:
            yield Fault(number, said(error))
    if KEY in head:
        yield restored(head[KEY], [_reference(raw) for raw in references])
        return
    if references:
        raise Refused("the session's first line is missing")
    turns, faults = _turns(entries)
    yield from faults
    if not turns:
        raise Refused("no line is a message")
    licence = licence_of(head, head.get("payload"))
    yield conversation(turns, record={"session": head} if head else None, licence=licence)


def _turns(entries: list[Entry]) -> tuple[list[Turn], list[Fault]]:
    """Messages with what each follows: the line that its own names, or else the one before it."""
    places = {entry.id: place for place, entry in enumerate(entries) if entry.id is not None}
    parents = [
        places.get(entry.parent) if entry.linked else (place - 1 if place else None)
        for place, entry in enumerate(entries)
    ]
    order = in_order(parents)
    lost = sorted(set(range(len(entries))) - set(order))
    faults = [Fault(entries[place].number, "its line of parents is a cycle") for place in lost]
    turns: list[Turn] = []
    ends: dict[int, int | None] = {}
    cut: set[int] = set()
    for place in order:
        entry, parent = entries[place], parents[place]
        above = None if parent is None else ends[parent]
        if entry.compacted or parent in cut:
            cut.add(place)
        for message in entry.messages:
            turn = Turn(message=message, said={}, above=above)
            if place in cut:
                turn.before = _COMPACTED
                cut.discard(place)
            elif above is None and turns:
                turn.above = -1
            turns.append(turn)
            above = len(turns) - 1
        ends[place] = above
    return turns, faults


def _entry(raw: dict[str, Any], number: int) -> Entry:
    """A line of any of the formats.

    Raises:
        msgspec.ValidationError: a value is of another kind than it should be.
    """
    kind, entry = raw.get("type"), Entry(number=number)
    if "uuid" in raw or "parentUuid" in raw:
        entry.id, entry.parent, entry.linked = _text(raw, "uuid"), _text(raw, "parentUuid"), True
        entry.compacted = raw.get("subtype") == "compact_boundary"
    elif "parentId" in raw:
        entry.id, entry.parent, entry.linked = _text(raw, "id"), _text(raw, "parentId"), True
        entry.compacted = kind == "compaction"
    if kind == "compacted":
        entry.compacted = True
    item = raw.get("payload") if kind == "response_item" else raw
    if isinstance(item, dict) and item.get("type") in (*_CALLS, *_RESULTS):
        entry.messages = [_tool_item(item)]
    elif isinstance(item, dict) and isinstance(item.get("message"), dict) and kind in ("message", "user", "assistant"):
        entry.messages = list(_messages({"role": kind, **item["message"]}))
    elif isinstance(item, dict) and item.get("type") == "message" and "role" in item:
        entry.messages = list(_messages(item))
    return entry


def _tool_item(item: dict[str, Any]) -> Message:
    """A tool call of Codex, or what came of one."""
    name, call = _text(item, "name") or item["type"], _text(item, "call_id")
    if item["type"] in _RESULTS:
        output = item.get("output")
        text = output if isinstance(output, str) else msgspec.json.encode(output).decode()
        return Message(role="tool", content=text, tool_call_id=call)
    if "input" in item:
        asked = Call(custom=msgspec.convert({"name": name, "input": item["input"]}, Custom), id=call)
    else:
        arguments = item.get("arguments", item.get("action", {}))
        asked = Call(msgspec.convert({"name": name, "arguments": arguments}, Function), call)
    return Message(role="assistant", content="", tool_calls=[asked])


def _messages(said: dict[str, Any]) -> Iterator[Message]:
    """The messages in one object: an answer with its calls, results of tools, a text."""
    content = said.get("content")
    if not isinstance(content, str | list | None):
        raise Refused(f"content is {type(content).__name__}")
    calls = [
        Call(msgspec.convert(call.get("function"), Function), _text(call, "id"))
        for call in msgspec.convert(said.get("toolCalls") or [], list[dict[str, Any]])
    ]
    blocks = [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []
    for block in blocks:
        if block.get("type") in ("tool_use", "toolCall"):
            arguments = block.get("input", block.get("arguments", {}))
            function = msgspec.convert({"name": block.get("name"), "arguments": arguments}, Function)
            calls.append(Call(function, _text(block, "id")))
        elif block.get("type") == "tool_result":
            yield Message(role="tool", content=_shown(block.get("content")), tool_call_id=_text(block, "tool_use_id"))
    text = text_of(content)
    if text or calls or not blocks:
        yield Message(
            role="tool" if said.get("role") == _RESULT else role_of(said.get("role"), "user"),
            content=text,
            tool_calls=calls or None,
            tool_call_id=_text(said, "toolCallId"),
        )


def _shown(content: Any) -> str:
    return text_of(content) if isinstance(content, str | list | None) else msgspec.json.encode(content).decode()


def _text(raw: dict[str, Any], name: str) -> str | None:
    value = raw.get(name)
    if value is not None and not isinstance(value, str):
        raise Refused(f"{name} is no text")
    return value


def _reference(raw: dict[str, Any]) -> dict[str, Any]:
    said, message = raw[KEY], raw.get("message", {})
    if not isinstance(said, dict) or not isinstance(message, dict):
        raise Refused(f"{KEY} is no object")
    return {"text": message.get("content"), **said}


def written(path: Path) -> Iterator[Line]:
    """A session; of the messages those that are nodes have a reference. Nodes that are no message have a line alone."""
    root, references = path.references(without=("text",))
    left = iter(references)
    yield {**header(path), KEY: root}
    for one in path.messages():
        if one.role == TEMPLATE:
            yield {"type": KEY, KEY: {**next(left), "text": one.text}}
        else:
            line = {"type": "message", "message": _message(one)}
            yield line if one.node is None else {**line, KEY: next(left)}


def header(path: Path) -> Line:
    """The first line of a session."""
    return {"type": "session", "harness": KEY, "id": f"{path.tree.tree}#{path.end}"}


def messages(path: Path) -> Iterator[Line]:
    """The messages of a path: what stands before the question, then one a node that is one."""
    return (_message(one) for one in path.messages() if one.role != TEMPLATE)


def _message(one: Said) -> Line:
    message: Line = {"role": _ROLES.get(one.role, one.role), "content": one.text}
    if one.call:
        message["toolCallId"] = one.call
    if one.calls:
        message["toolCalls"] = [{"id": call["id"], "function": call["function"]} for call in one.calls]
    if one.role == "assistant" and one.node is not None and one.node["policy"]:
        message["model"] = one.node["policy"]
    return message


IMPORTER = Importer(parse, whole, (".jsonl",))
EXPORTER = Exporter(written, ".jsonl")
