"""A dialogue with tools: a turn calls some and is shown what they answer; one that calls none is the answer.

Knows the tools by what they offer: a schema, and an answer to a call.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields

from pipeline.environments.protocol import LONGEST, Observation, Opened, Step, Task
from pipeline.environments.tool_calls import ToolCall, calls_json, find_calls
from pipeline.errors import BadConfig
from pipeline.tools.toolbox import ToolAnswer, Toolbox

VERSION = "2"


@dataclass(frozen=True, slots=True)
class Options:
    """tools: keys of TOOLS, those that are offered. instructions: what a policy is told before it is told of the tools.
    schemas: whether it is told their schemas too. options: of each tool, by its name.
    """

    tools: list[str]
    instructions: str = "Answer the question. Use the tools as you need them."
    schemas: bool = True
    options: dict[str, dict] = field(default_factory=dict)


class ToolEnvironment:
    """One question, and tools to answer it."""

    seats = ("solver",)
    judge = "verifier"
    replayable = True

    def __init__(self, tools: Toolbox, instructions: str):
        self._tools, self.instructions = tools, (instructions,)

    def reset(self, task: Task, seed: int) -> Observation:
        return Observation(task.question)

    def step(self, action: str) -> Step:
        calls = find_calls(action)
        if not calls:
            return Step(None, done=True, answer=action)
        answers = [self._answer(call) for call in calls]
        shown, documents = "", []
        for answer in answers:
            shown += "\n<tool_response>\n" if shown else "<tool_response>\n"
            documents.append(_begun(answer, LONGEST - len(shown)))
            shown += f"{_told(answer)}\n</tool_response>"
        return Step(
            Observation(shown),
            invalid=all(call.problem for call in calls),
            calls=calls_json(calls, [not one.failure for one in answers], documents),
        )

    def copy(self) -> ToolEnvironment:
        return self  # nothing of it changes

    def close(self) -> None:
        return None

    def _answer(self, call: ToolCall) -> ToolAnswer:
        if call.problem:
            return ToolAnswer("", call.problem)
        return self._tools.call(call.name, json.dumps(call.arguments))


def _told(answer: ToolAnswer) -> str:
    """What is shown of an answer."""
    return f"{answer.text}\nerror: {answer.failure}".strip() if answer.failure else answer.text


def _begun(answer: ToolAnswer, room: int) -> list[str] | None:
    """Ids of the documents that are seen where an answer has so much room, at least their beginning."""
    return None if answer.documents is None else [one.id for one in answer.documents if one.begins < room]


class ClosedBook:
    """One question and no tool: the first turn is the answer, from memory."""

    seats = ("solver",)
    instructions = ("Answer the question from memory.\nEnd with the answer alone: #### answer",)
    judge = "verifier"
    replayable = True

    def reset(self, task: Task, seed: int) -> Observation:
        return Observation(task.question)

    def step(self, action: str) -> Step:
        return Step(None, done=True, answer=action)

    def copy(self) -> ClosedBook:
        return self  # nothing of it changes

    def close(self) -> None:
        return None


CLOSED_BOOK = Opened(ClosedBook, f"{VERSION} closed book")
"""In place of the environment of a suite with tools."""


def instructions_of(options: Options, tools: Toolbox) -> str:
    """What a policy is told of its tools."""
    lines = [options.instructions]
    if options.schemas:
        lines += ["", "Tools, a JSON schema a line:", *(json.dumps(schema["function"]) for schema in tools.schemas)]
    names = " or ".join(schema["function"]["name"] for schema in tools.schemas)
    call = '<tool_call>{"name": "NAME", "arguments": {...}}</tool_call>'
    lines += ["", f"To call {names}, write {call} and nothing after it.", "End with the answer alone: #### answer"]
    return "\n".join(lines)


def opened(options: Options) -> Opened:
    """Environments over the tools that the project has.

    Raises:
        BadConfig, BadInput: there is no such tool, or an option of it cannot be.
    """
    from pipeline.tools import TOOLS

    for name, given in ((name, options.options.get(name, {})) for name in options.tools):
        if name not in TOOLS:
            raise BadConfig(f"tool {name!r} does not exist", remedy=f"choose of {', '.join(TOOLS)}")
        known = {field.name for field in fields(TOOLS[name].Options)}
        if unknown := sorted(given.keys() - known):
            raise BadConfig(f"tool {name} has no option {unknown[0]!r}", remedy=f"it has {', '.join(known) or 'none'}")
    tools = Toolbox(TOOLS[name].opened(TOOLS[name].Options(**options.options.get(name, {}))) for name in options.tools)
    instructions = instructions_of(options, tools)
    searches = "search" in options.tools
    return Opened(lambda: ToolEnvironment(tools, instructions), f"{VERSION} {tools.version}", searches=searches)
