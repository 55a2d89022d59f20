"""Traces of verifiers v1, which prime-rl writes too: an episode a line, of its traces nodes with parents and tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from pipeline.exchange.conversation import Call, Function, Message, Turn, conversation, in_order, role_of, text_of
from pipeline.exchange.document import Document, Fault, Number, Refused, TokenId, as_json, licence_of
from pipeline.exchange.reading import Importer, lines, said

_BESIDE = ("nodes", "tools")


class ToolCall(msgspec.Struct, gc=False):
    """arguments: JSON text."""

    name: str
    arguments: str = "{}"
    id: str | None = None


class NodeMessage(msgspec.Struct, gc=False):
    """A message of any role."""

    role: str
    content: str | list[str | dict[str, Any]] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class Node(msgspec.Struct, gc=False):
    """token_ids: those it adds. mask: which of them were sampled. logprobs: of those that were."""

    message: NodeMessage
    parent: int | None = None
    sampled: bool = False
    token_ids: list[TokenId] | None = None
    mask: list[bool] | None = None
    logprobs: list[Number] | None = None


class ModelCall(msgspec.Struct, gc=False):
    """What an answer was asked by."""

    node: int | None = None
    model: str | None = None
    finish_reason: str | None = None


class Reward(msgspec.Struct, gc=False):
    """A part of the reward."""

    score: Number
    weight: Number = 1.0


class Trace(msgspec.Struct, gc=False):
    """One attempt."""

    nodes: list[Node]
    tools: list[dict[str, Any]] | None = None
    calls: list[ModelCall] = []
    rewards: dict[str, Reward | None] = {}
    info: Any = None


class Task(msgspec.Struct, gc=False):
    """What was asked, beside the messages."""

    data: dict[str, Any] | None = None


class Episode(msgspec.Struct, gc=False):
    """A line of the file."""

    traces: list[msgspec.Raw]
    task: Task | None = None


_episode = msgspec.json.Decoder(Episode).decode
_trace = msgspec.json.Decoder(Trace).decode
_parts = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def parse(data: bytes) -> Iterator[Document | Fault]:
    """A document a trace; one that cannot be read is a fault."""
    episode = _episode(data)
    of_episode = {name: part for name, part in _parts(data).items() if name not in ("traces", "task")}
    told = episode.task.data if episode.task else None
    answer = (told or {}).get("answer")
    for number, raw in enumerate(episode.traces):
        try:
            trace = _trace(raw)
            turns = _turns(trace)
        except (Refused, msgspec.ValidationError) as error:
            yield Fault(0, f"trace {number}: {said(error)}")
            continue
        parts = _parts(raw)
        known = [reward for reward in trace.rewards.values() if reward is not None]
        yield conversation(
            turns,
            record={"episode": of_episode, **{name: parts[name] for name in parts if name not in _BESIDE}},
            tools=trace.tools,
            reward=sum(reward.score * reward.weight for reward in known) if known else None,
            components=as_json(parts["rewards"]) if known else None,
            answer=answer if isinstance(answer, str) else None,
            info=as_json(told) if told else None,
            model=next((call.model for call in trace.calls if call.model), None),
            licence=licence_of(trace.info, told),
        )


def _turns(trace: Trace) -> list[Turn]:
    count = len(trace.nodes)
    if any(node.parent is not None and not 0 <= node.parent < count for node in trace.nodes):
        raise Refused("a node's parent is not there")
    order = in_order([node.parent for node in trace.nodes])
    if len(order) < count:
        raise Refused("the parents of its nodes form a cycle")
    inner = {node.parent for node in trace.nodes}
    finishes = {call.node: call.finish_reason for call in trace.calls if call.node not in inner}
    ends: dict[int, int] = {}
    turns: list[Turn] = []
    for place in order:
        node = trace.nodes[place]
        above = ends.get(node.parent, -1) if node.parent is not None else (None if not turns else -1)
        for turn in _pieces(node, place, finishes.get(place)):
            turn.above, above = above, len(turns)
            turns.append(turn)
        ends[place] = above
    return turns


def _pieces(node: Node, place: int, finish: str | None) -> Iterator[Turn]:
    """A node; where template tokens stand around the sampled ones, those as nodes of their own, for they are context.

    Raises:
        Refused: the lists do not fit one another.
    """
    message = _message(node.message, "assistant" if node.sampled else "user")
    ids, mask, logprobs = node.token_ids, node.mask, node.logprobs or []
    finish = {"stop": "stop", "length": "length", "tool_calls": "stop"}.get(finish or "")
    if not ids:
        yield Turn(message=message, said={}, finish=finish)
        return
    mask = mask or [node.sampled] * len(ids)
    if len(mask) != len(ids) or (logprobs and len(logprobs) != sum(mask)):
        raise Refused(f"node {place} has {len(ids)} tokens, {len(mask)} in its mask and {len(logprobs)} logprobs")
    if message.role != "assistant" or True not in mask:
        yield Turn(message=message, said={}, token_ids=ids, finish=finish)
        return
    start, end = mask.index(True), len(mask) - mask[::-1].index(True)
    if False in mask[start:end]:
        yield Turn(message=message, said={}, token_ids=ids, finish=finish)
        return
    if start:
        yield Turn(message=Message(role="assistant"), said={}, template=True, token_ids=ids[:start])
    yield Turn(message=message, said={}, token_ids=ids[start:end], logprobs=logprobs or None, finish=finish)
    if end < len(ids):
        yield Turn(message=Message(role="assistant"), said={}, template=True, token_ids=ids[end:])


def _message(found: NodeMessage, otherwise: str) -> Message:
    calls = [Call(Function(call.name, call.arguments), call.id) for call in found.tool_calls or ()]
    return Message(
        role=role_of(found.role, otherwise),
        content=text_of(found.content),
        tool_calls=calls or None,
        tool_call_id=found.tool_call_id,
    )


IMPORTER = Importer(parse, lines, (".jsonl",))
