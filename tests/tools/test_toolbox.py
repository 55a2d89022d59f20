"""The toolbox: declarations, calls, and that whatever is wrong with a call is an answer."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from pipeline.errors import BadConfig
from pipeline.tools import TOOLS, python_tool
from pipeline.tools.toolbox import LONGEST_FAILURE, Arguments, Document, Tool, ToolAnswer, Toolbox


class Repeated(Arguments):
    word: str = Field(description="What is said.")
    times: int = Field(default=1, ge=0)


ECHO = Tool("echo", "Says it again.", Repeated, lambda given: ToolAnswer(given.word * given.times), "1")
FAILS = Tool("fails", "Fails.", Repeated, lambda given: ToolAnswer("so far", given.word * 10**6), "2")
TOOLBOX = Toolbox([ECHO, FAILS], longest=20)


def test_declarations_are_openais():
    assert TOOLBOX.schemas[0] == {
        "type": "function",
        "function": {
            "name": "echo",
            "description": "Says it again.",
            "parameters": {
                "type": "object",
                "properties": {
                    "word": {"type": "string", "description": "What is said."},
                    "times": {"type": "integer", "minimum": 0, "default": 1},
                },
                "required": ["word"],
                "additionalProperties": False,
            },
        },
    }
    assert TOOLBOX.version == "echo:1 fails:2"


@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("echo", '{"word": "a"}', ("a", None)),
        ("echo", '{"word": "a", "times": 3}', ("aaa", None)),
        ("echo", '{"word": "a", "times": 20}', ("a" * 20, None)),
        ("echo", '{"word": "a", "times": 21}', ("a" * 20 + "\n[cut]", None)),
        ("fails", '{"word": "x"}', ("so far", "x" * LONGEST_FAILURE)),
    ],
)
def test_calls(name, arguments, answer):
    assert TOOLBOX.call(name, arguments) == ToolAnswer(*answer)


def test_documents_of_which_nothing_is_shown_are_cut_too():
    found = (Document("a", 0), Document("b", 19), Document("c", 20))
    tool = Tool("finds", "Finds.", Repeated, lambda given: ToolAnswer(given.word * given.times, documents=found), "1")
    answer = Toolbox([tool], longest=20).call("finds", '{"word": "a", "times": 30}')
    assert answer == ToolAnswer("a" * 20 + "\n[cut]", documents=found[:2])


@pytest.mark.parametrize(
    ("name", "arguments", "failure"),
    [
        ("none", "{}", "no tool is called 'none'; there are echo, fails"),
        ("", "{}", "no tool is called ''"),
        ("echo", "", "arguments: Invalid JSON"),
        ("echo", "{", "arguments: Invalid JSON"),
        ("echo", "[" * 10**5, "arguments: Invalid JSON"),
        ("echo", "[]", "arguments: Input should be an object"),
        ("echo", "null", "arguments: Input should be an object"),
        ("echo", "{}", "arguments: word: Field required"),
        ("echo", '{"word": 1}', "arguments: word: Input should be a valid string"),
        ("echo", '{"word": "a", "times": "3"}', "arguments: times: Input should be a valid integer"),
        ("echo", '{"word": "a", "times": -1}', "arguments: times: Input should be greater than or equal to 0"),
        ("echo", '{"word": "a", "other": 1}', "arguments: other: Extra inputs are not permitted"),
        ("echo", '{"word": "\\ud800"}', "arguments: Invalid JSON"),
        ("echo", '"\ud800"', "arguments: Input should be a valid string"),
        ("echo", " " * 10**6, "the arguments have over"),
    ],
)
def test_what_is_wrong_is_an_answer(name, arguments, failure):
    answer = TOOLBOX.call(name, arguments)
    assert answer.text == ""
    assert answer.failure.startswith(failure)
    assert len(answer.failure) <= LONGEST_FAILURE


@given(st.text(), st.text())
def test_nothing_is_raised(name, arguments):
    assert TOOLBOX.call(name, arguments).failure
    assert TOOLBOX.call("echo", arguments).failure


def test_two_of_one_name():
    with pytest.raises(BadConfig, match="two tools have one name"):
        Toolbox([ECHO, ECHO])


def test_the_tools_there_are():
    tools = Toolbox([module.opened(module.Options()) for module in TOOLS.values()])
    assert [schema["function"]["name"] for schema in tools.schemas] == list(TOOLS)
    assert all(json.loads(json.dumps(schema)) == schema for schema in tools.schemas)


class TestPython:
    TOOLS = Toolbox([python_tool.opened(python_tool.Options(seconds=0.5, megabytes=16, output=100))])

    @pytest.mark.parametrize(
        ("code", "answer"),
        [
            ("print('a')\n1 + 1", ("a\n2", None)),
            ("x = 1", ("", None)),
            ("print('a')\n1 / 0", ("a\n", "ZeroDivisionError: division by zero (line 2)")),
            ("while True: pass", ("", "stopped after 0.5 s")),
            ("x = 'a' * 10**9", ("", "stopped at 16 MB of memory")),
            ("while True: print('a')", ("a\n" * 50, "stopped at 100 characters of output")),
            ("open('a')", ("", "forbidden: PermissionError: Permission denied: '/a' (line 1)")),
        ],
    )
    def test_answers(self, code, answer):
        assert self.TOOLS.call("python", json.dumps({"code": code})) == ToolAnswer(*answer)
