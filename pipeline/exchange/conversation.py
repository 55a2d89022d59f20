"""A chat as a document: the question, the last before an answer, and what stands before it are the task, every later
message a node.

Knows OpenAI's messages, old ones too; other formats are brought into them first. What a message has beside role, text
and tool calls stays in the record.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from pipeline.exchange.document import (
    REFERENCE,
    TEMPLATE,
    Document,
    Judgement,
    Refused,
    Step,
    as_json,
    packed_ids,
    packed_numbers,
    record_of,
)

PROMPTING = ("system", "developer", "user")
ROLES = (*PROMPTING, "assistant", "tool")
_RENAMED = {"function": "tool"}
"""Roles that OpenAI called otherwise before."""
MISSING = "what came before is not in the source"
TEXT = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Kinds of parts of a content that are text, and where it stands in them."""


class Function(msgspec.Struct, gc=False):
    """arguments: JSON text; some write the object itself."""

    name: str
    arguments: str | dict[str, Any] | None = None


class Custom(msgspec.Struct, gc=False):
    """input: text of no form."""

    name: str
    input: str = ""


class Call(msgspec.Struct, gc=False):
    """What an answer asks of a tool: of a function, or of a custom tool, which is one of a single argument `input`
    then."""

    function: Function | None = None
    id: str | None = None
    custom: Custom | None = None

    def __post_init__(self):
        if self.function is None and self.custom is None:
            raise ValueError("a tool call has neither function nor custom")
        self.function = self.function or Function(self.custom.name, {"input": self.custom.input})


class Message(msgspec.Struct, kw_only=True, gc=False):
    """A message of a chat. What a refusal says is its text where there is no other; a call by the former name is one
    of `tool_calls`, and what it brought is a tool's."""

    role: Literal[(*ROLES, *_RENAMED)]
    content: str | list[str | dict[str, Any]] | None = None
    refusal: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    function_call: Function | None = None

    def __post_init__(self):
        self.role = _RENAMED.get(self.role, self.role)
        self.content = self.content or self.refusal
        if self.function_call is not None:
            self.tool_calls = [*(self.tool_calls or ()), Call(self.function_call)]
            self.function_call = None


class Turn(msgspec.Struct, kw_only=True, gc=False):
    """A message with what a source knows of its node.

    said:   the source's own object, kept in the record; `text_at` names the key that holds the message's text there.
    above:  place of the turn that it follows; None: the one before it. -1: none does, and something is missing.
    before: why something is missing before it; empty: nothing is.
    shown:  whether it is part of the prompt whoever speaks, as a demonstration is.
    template: whether it is no message but tokens that a chat template puts around one.
    """

    message: Message
    said: dict[str, Any]
    text_at: str = "content"
    above: int | None = None
    before: str = ""
    shown: bool = False
    template: bool = False
    token_ids: list[int] | None = None
    logprobs: list[float] | None = None
    finish: str | None = None
    reward: float | None = None


def text_of(content: str | Sequence[Any] | None) -> str:
    """The text of a message's content; what is no text is left out."""
    if isinstance(content, str) or content is None:
        return content or ""
    parts = []
    for part in content:
        if isinstance(part, str):
            parts.append(part)
        elif isinstance(part, dict) and isinstance(part.get("type"), str):
            text = part.get(TEXT.get(part["type"]))
            parts += [text] if isinstance(text, str) else []
    return "\n".join(parts)


def role_of(said: Any, otherwise: str) -> str:
    """A role in today's words; another for one that is not known."""
    role = _RENAMED.get(said, said) if isinstance(said, str) else None
    return role if role in ROLES else otherwise


def calls_of(calls: Sequence[Call] | None) -> list[dict[str, Any]]:
    """Tool calls as OpenAI has them, arguments as the text they are."""
    said = []
    for call in calls or ():
        arguments = call.function.arguments
        text = arguments if isinstance(arguments, str) else as_json(arguments or {})
        said.append({"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": text}})
    return said


def conversation(
    turns: Sequence[Turn],
    *,
    record: dict[str, Any] | None = None,
    tools: Any = None,
    reward: float | None = None,
    components: str | None = None,
    **of_document: Any,
) -> Document:
    """A document of a chat.

    Args:
        turns: in order; their `said` objects are parts of the record, in which texts give way to references.
        record: what is kept beside the nodes. None: nothing but the turns.
        tools: schemas of those offered.
        reward: of the whole.

    Raises:
        Refused: there is no message.
    """
    if not turns:
        raise Refused("no messages")
    start = _opening(turns)
    opening = turns[:start]
    asks = bool(opening) and _asks(opening[-1])
    messages = [_bare(turn.message) for turn in (opening[:-1] if asks else opening)]
    question = text_of(opening[-1].message.content) if asks else ""
    if asks:
        _refer(opening[-1], question, -1)
    ids = [turn.token_ids for turn in opening]
    steps: list[Step] = []
    numbers = [-1] * start
    for place, turn in enumerate(turns[start:], start=start):
        follows = place - 1 if turn.above is None else turn.above
        above = numbers[follows] if follows >= 0 else -1
        if turn.before or turn.above == -1:
            steps.append(Step(above, turn.before or MISSING, "prompt", "gap", begins=True))
            above = len(steps) - 1
        numbers.append(len(steps))
        steps.append(_step(turn, above))
        _refer(turn, steps[-1].text, len(steps) - 1)
    last = len(steps) - 1
    return Document(
        question,
        steps,
        messages=as_json(messages) if messages else None,
        tools=as_json(tools) if tools else None,
        prompt_ids=packed_ids([token for some in ids for token in some]) if ids and None not in ids else None,
        judgements=[] if reward is None or last < 0 else [Judgement(last, reward, components=components)],
        leaf=last,
        record=record_of(record),
        **of_document,
    )


def _opening(turns: Sequence[Turn]) -> int:
    """How many turns are the prompt: what is shown before the question, and it; all of them where none asks."""
    end = asked = 0
    for place, turn in enumerate(turns):
        follows = turn.above in (None, place - 1) and not (turn.before and place)
        if not follows or (asked if turn.shown else turn.message.role not in PROMPTING):
            break
        end = place + 1
        asked = end if _asks(turn) else asked
    return asked or end


def _asks(turn: Turn) -> bool:
    return turn.message.role == "user" and not turn.shown


def in_order(parents: Sequence[int | None]) -> list[int]:
    """Places in an order in which parents come first, as given where they do; those on a cycle, or below one, left out.

    Args:
        parents: by place, that of its parent; None: it has none.
    """
    below: dict[int, list[int]] = {}
    waiting = []
    for place, parent in enumerate(parents):
        (waiting if parent is None else below.setdefault(parent, [])).append(place)
    found = []
    heapq.heapify(waiting)
    while waiting:
        found.append(heapq.heappop(waiting))
        for place in below.get(found[-1], ()):
            heapq.heappush(waiting, place)
    return found


def _refer(turn: Turn, text: str, step: int) -> None:
    """Put a reference in place of the text in the source's own object, where it stands there as it is."""
    if turn.said.get(turn.text_at) == text:
        turn.said[turn.text_at] = {REFERENCE: step}


def _bare(message: Message) -> dict[str, Any]:
    """As a task has it."""
    said = {"role": message.role, "content": text_of(message.content)}
    if calls := calls_of(message.tool_calls):
        said["tool_calls"] = calls
    if message.role == "tool" and message.tool_call_id:
        said["tool_call_id"] = message.tool_call_id
    return said


def _step(turn: Turn, above: int) -> Step:
    message = turn.message
    answered = message.role == "assistant" and not turn.shown and not turn.template
    speaker = TEMPLATE if turn.template else f"{message.role} {message.tool_call_id or ''}".rstrip()
    calls = calls_of(message.tool_calls)
    return Step(
        above,
        text_of(message.content),
        "step" if answered else "prompt",
        "sample" if answered else "prompt",
        "" if answered else speaker,
        token_ids=packed_ids(turn.token_ids),
        logprobs=packed_numbers(turn.logprobs),
        tool_calls=as_json(calls) if calls else None,
        finish=turn.finish,
        reward=turn.reward,
    )
