"""Session files of agents: the Hub's own format, Claude Code's, Codex' and Pi's, told apart line by line; written as
the Hub's, with what restores the tree under one reserved key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from pipeline.exchange.conversation import (
    Call,
    Function,
    Message,
    Turn,
    conversation,
    in_order,
    role_of,
    text_of,
)
from pipeline.exchange.document import Document, Fault, Refused, Restored, licence_of
from pipeline.exchange.paths import Exporter, Line, Path, openai_calls
from pipeline.exchange.reading import Importer, said, strict, whole
from pipeline.exchange.references import KEY, restored

_ROLES = {"developer": "system"}
"""The Hub's words for roles, where they are others."""
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
        Refused: no line is a message.
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
    arguments = item.get("arguments", item.get("input", item.get("action", {})))
    function = msgspec.convert({"name": name, "arguments": arguments}, Function)
    return Message(role="assistant", content="", tool_calls=[Call(function, call)])


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
            role=role_of(said.get("role"), "user"),
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
    said = raw[KEY]
    if not isinstance(said, dict) or not isinstance(raw.get("message"), dict):
        raise Refused(f"{KEY} is no object")
    return {"text": raw["message"].get("content"), **said}


def written(path: Path) -> Iterator[Line]:
    """A session; of the messages those that are nodes have a reference."""
    root, references = path.references(without=("text",))
    said = list(messages(path))
    before = len(said) - len(references)
    yield {**header(path), KEY: root}
    yield from ({"type": "message", "message": message} for message in said[:before])
    for message, reference in zip(said[before:], references, strict=True):
        yield {"type": "message", "message": message, KEY: reference}


def header(path: Path) -> Line:
    """The first line of a session."""
    return {"type": "session", "harness": KEY, "id": f"{path.tree.tree}#{path.end}"}


def messages(path: Path) -> Iterator[Line]:
    """The messages of a path: what stands before the question, then one a node."""
    for shown in path.messages:
        yield {"role": _ROLES.get(shown.get("role"), shown.get("role")), "content": shown.get("content")}
    for node in path.nodes:
        role, call = path.tree.speaker(node)
        message: Line = {"role": _ROLES.get(role, role), "content": node["text"]}
        if role == "tool" and call:
            message["toolCallId"] = call
        if calls := openai_calls(node):
            message["toolCalls"] = [{"id": said["id"], "function": said["function"]} for said in calls]
        if role == "assistant" and node["policy"]:
            message["model"] = node["policy"]
        yield message


IMPORTER = Importer(parse, whole, (".jsonl",))
EXPORTER = Exporter(written, ".jsonl")
