"""The tool that runs Python, in the sandbox; each call by itself, so that a dialogue can be replayed from any turn."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from pipeline.tools.toolbox import Arguments, Tool, ToolAnswer


@dataclass(frozen=True, slots=True)
class Options:
    """seconds, megabytes and output: limits of a call, as the sandbox has them."""

    seconds: float = 2.0
    megabytes: int = 64
    output: int = 4000


class PythonArguments(Arguments):
    """What is run."""

    code: str = Field(description="A whole program. What it prints is shown, and the value of its last line.")


def opened(options: Options) -> Tool:
    """The tool, with its own interpreters.

    Raises:
        BadConfig: a limit leaves nothing, or the interpreter does not start.
    """
    from pipeline.tools.sandbox import VERSION, Limits, Sandbox

    sandbox = Sandbox(Limits(seconds=options.seconds, megabytes=options.megabytes, output=options.output))
    limits = {
        "time": f"stopped after {options.seconds:g} s",
        "memory": f"stopped at {options.megabytes} MB of memory",
        "output": f"stopped at {options.output} characters of output",
    }

    def answer(given: PythonArguments) -> ToolAnswer:
        ran = sandbox.run(given.code)
        if ran.failure is None:
            return ToolAnswer(ran.told)
        return ToolAnswer(ran.printed, limits.get(ran.failure) or ran.failure.removeprefix("error: "))

    return Tool(
        name="python",
        description="Run Python and see what it prints. It has no files and no network; nothing is kept between calls.",
        arguments=PythonArguments,
        answer=answer,
        version=f"{VERSION} {options.seconds} {options.megabytes} {options.output}",
    )
