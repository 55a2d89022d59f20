"""OpenAI's messages with tools: a chat a line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from pipeline.exchange.conversation import Message, Turn, conversation
from pipeline.exchange.document import TEMPLATE, Document, escape, licence_of
from pipeline.exchange.paths import Exporter, Line, Path
from pipeline.exchange.reading import Importer, rows


class Row(msgspec.Struct):
    """A line of the file. functions: tools, by their former name."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None = None
    functions: list[dict[str, Any]] | None = None


def parse(data: bytes) -> Iterator[Document]:
    """A chat; whatever else stands in the row is kept."""
    raw = msgspec.json.decode(data)
    row = msgspec.convert(raw, Row)
    escape(raw)
    turns = [Turn(message=message, said=said) for message, said in zip(row.messages, raw["messages"], strict=True)]
    if turns and turns[-1].message.role == "assistant":
        turns[-1].finish = "stop"
    tools = row.tools or [{"type": "function", "function": function} for function in row.functions or ()]
    yield conversation(turns, record=raw, tools=tools, licence=licence_of(raw, raw.get("metadata")))


def written(path: Path) -> Iterator[Line]:
    """The lines that were imported to this end, as they were; of another path its chat, an answer's steps in one."""
    records = path.records("messages")
    yield from records
    if not records and (messages := chat(path)):
        yield {"messages": messages} | ({"tools": tools} if (tools := path.tools) else {})


def chat(path: Path) -> list[Line]:
    """The messages of a path. Steps that follow one another are lines of one answer."""
    messages: list[Line] = []
    answering = False
    for said in path.messages():
        goes_on, answering = answering, said.node is not None and said.node["kind"] != "prompt"
        if said.role == TEMPLATE or (said.node is not None and said.node["origin"] == "gap"):
            continue
        if answering and goes_on and "tool_calls" not in messages[-1]:
            messages[-1]["content"] += f"\n{said.text}"
        else:
            messages.append({"role": said.role, "content": said.text})
        if said.calls:
            messages[-1]["tool_calls"] = said.calls
        if said.call:
            messages[-1]["tool_call_id"] = said.call
    return messages


IMPORTER = Importer(parse, rows, (".jsonl", ".json", ".parquet"))
EXPORTER = Exporter(written)
