"""Tools that a model calls, in the shape that OpenAI gave them: a declaration, and an answer to a name and JSON text.

Knows no tool, and nothing of whoever calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import BadConfig

LONGEST = 4000
"""Characters of an answer; what is longer is cut, and says so."""
LONGEST_FAILURE = 500
LONGEST_ARGUMENTS = 200_000
_CUT = "\n[cut]"


class Document(NamedTuple):
    """What was retrieved. begins: at which character of the answer's text."""

    id: str
    begins: int


class ToolAnswer(NamedTuple):
    """What a tool said. failure: why it has no answer, or no whole one; None: it has. documents: what it retrieved, of
    which the text has at least the beginning; None: it does not retrieve.
    """

    text: str
    failure: str | None = None
    documents: tuple[Document, ...] | None = None

    def cut(self, longest: int) -> ToolAnswer:
        """No more of it than so many characters, and the documents that begin there."""
        shown = self.documents and tuple(one for one in self.documents if one.begins < longest)
        text = self.text if len(self.text) <= longest else self.text[:longest] + _CUT
        return self._replace(text=text, documents=shown)


class Arguments(BaseModel):
    """What a tool takes, a field an argument, each with a description. Others are refused, and nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool by its name.

    description: what a model is told of it.
    arguments:   what it takes.
    answer:      what it does. It raises nothing for what a model may give it.
    version:     changes whenever the same arguments may get another answer.
    """

    name: str
    description: str
    arguments: type[Arguments]
    answer: Callable[[Any], ToolAnswer]
    version: str

    @property
    def schema(self) -> dict[str, Any]:
        """`{"type": "function", "function": {"name", "description", "parameters"}}`."""
        parameters = self.arguments.model_json_schema()
        for one in (parameters, *parameters.get("properties", {}).values()):
            one.pop("title", None)
        parameters.pop("description", None)
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}


class Toolbox:
    """Tools to call by name.

    Args:
        tools: of different names.
        longest: characters of an answer.

    Raises:
        BadConfig: two have one name.
    """

    def __init__(self, tools: Iterable[Tool], *, longest: int = LONGEST):
        tools = tuple(tools)
        self._tools = {tool.name: tool for tool in tools}
        if len(self._tools) < len(tools):
            raise BadConfig("two tools have one name", remedy="offer each once")
        self._longest = longest
        self.schemas: tuple[dict[str, Any], ...] = tuple(tool.schema for tool in tools)
        self.version = " ".join(f"{tool.name}:{tool.version}" for tool in tools)

    def call(self, name: str, arguments: str) -> ToolAnswer:
        """Call a tool. What goes wrong is an answer with a failure; nothing is raised for a name or for arguments.

        Args:
            name: of the tool.
            arguments: a JSON object, as text.
        """
        tool = self._tools.get(name)
        if tool is None:
            return ToolAnswer("", f"no tool is called {name[:80]!r}; there are {', '.join(self._tools) or 'none'}")
        if len(arguments) > LONGEST_ARGUMENTS:
            return ToolAnswer("", f"the arguments have over {LONGEST_ARGUMENTS} characters")
        try:
            given = tool.arguments.model_validate_json(arguments)
        except ValidationError as error:
            return ToolAnswer("", _wrong(error))
        answer = tool.answer(given).cut(self._longest)
        return answer._replace(failure=answer.failure and answer.failure[:LONGEST_FAILURE])


def _wrong(error: ValidationError) -> str:
    """The first thing that is wrong with arguments, for print."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"]))[:80]
    return f"arguments: {where + ': ' if where else ''}{first['msg']}"[:LONGEST_FAILURE]
