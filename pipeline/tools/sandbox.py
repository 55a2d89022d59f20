"""Runs Python that a model wrote: no files, no network, no processes, and limits of time, memory and output.

The interpreter is Monty (Pydantic): Python written anew in Rust, with what of the standard library touches nothing. It
has no system calls to offer, and works in processes beside this one; one that dies or is killed is replaced. On Linux
the kernel also keeps each of these from opening anything, from starting processes and from more memory, so that
a fault of the interpreter stays where it is. Clock and random numbers follow from nothing outside: the same code and
inputs give the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from pydantic_monty import (
    Monty,
    MontyCrashedError,
    MontyError,
    MontyRuntimeError,
    MontySyntaxError,
    OSPolicy,
    __version__,
)

from pipeline.errors import BadConfig, check_counts

VERSION = f"1 {__version__}"
LONGEST_FAILURE = 500
"""Characters of what is said of a failure."""
_EXITS = {"time": 124, "memory": 137, "output": 125, "forbidden": 126}
_INTERPRETER = 512 * 2**20
"""Bytes of address space that an idle interpreter may take; it takes less than half."""
_GRACE = 0.5
_POLICY: OSPolicy = {"datetime": datetime(2000, 1, 1, tzinfo=UTC), "sleep": "zero", "random_start": {"seed": 0}}
_WITHHELD = re.compile(r"module 'os' has no attribute|is not supported in this environment")
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one run.

    seconds:   of running, on the clock of the wall.
    megabytes: of the code's own values.
    output:    characters of what is printed, and of the value.
    code:      characters of the code.

    Raises:
        BadConfig: one of them leaves nothing.
    """

    seconds: float = 2.0
    megabytes: int = 64
    output: int = 10_000
    code: int = 100_000

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise BadConfig(f"sandbox seconds is {self.seconds}", remedy="give more than 0")
        check_counts(self, of="sandbox", megabytes=1, output=1, code=1)


DEFAULTS = Limits()


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of running code.

    value:   of the last line where that is an expression (`null` where not), as JSON; None where the run failed.
    printed: until it ended, at most `Limits.output` characters.
    failure: `time`, `memory` or `output`, the limit that ended it; `forbidden: ...`, what was asked for and is not
        there; `error: ...`, how it failed; None: it did not.
    seconds: it took.
    """

    value: str | None
    printed: str
    failure: str | None
    seconds: float

    @property
    def exit_code(self) -> int:
        """As a shell has it: 0 ran, 124 time, 125 output, 126 forbidden, 137 memory, 1 any other failure."""
        return _EXITS.get(self.failure.partition(":")[0], 1) if self.failure else 0

    @property
    def told(self) -> str:
        """What it printed, then its value unless that is null, then its failure."""
        shown = None if self.value == "null" else self.value
        return "\n".join(part for part in (self.printed.rstrip("\n"), shown, self.failure) if part)


class Sandbox:
    """Interpreters in processes beside this one, started as they are needed. Threads may share it; no run sees another.

    Args:
        limits: of every run.
        workers: interpreters at most; None: as many as there are processors. A run waits for a free one.

    Raises:
        BadConfig: the interpreter cannot be started.
    """

    def __init__(self, limits: Limits = DEFAULTS, *, workers: int | None = None):
        self.limits = limits
        self._memory = limits.megabytes * 2**20
        try:
            self._pool = Monty(
                max_processes=workers, request_timeout=limits.seconds + 2 * _GRACE, feed_duration_limit_grace=_GRACE
            ).__enter__()
        except (OSError, RuntimeError, MontyError) as error:
            raise BadConfig(
                f"the sandbox's interpreter does not start: {error}", remedy="install pydantic-monty anew"
            ) from error

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the interpreters."""
        self._pool.__exit__(None, None, None)

    def run(self, code: str, *, inputs: Mapping[str, Any] | None = None) -> Ran:
        """Run code. Whatever it does is in the answer; nothing is raised for it.

        Args:
            code: Python, as far as Monty has it: most of the language, and of the library math, re, json, random,
                itertools, collections, functools, datetime, decimal and some more; no numpy.
            inputs: values of JSON's kinds, by the name that the code knows them by.
        """
        if len(code) > self.limits.code:
            return Ran(None, "", f"error: the code has over {self.limits.code} characters", 0.0)
        begun, printed, value, failure = time.perf_counter(), _Printed(self.limits.output), None, None
        limits = {"max_feed_duration_secs": self.limits.seconds, "max_memory": self._memory}
        try:
            with self._pool.checkout(limits=limits, os_policy=_POLICY) as session:
                printed.worker = session.worker_pid
                _confine(printed.worker, self._memory + _INTERPRETER)
                found = session.feed_run(code, inputs=dict(inputs or {}), print_callback=printed)
            value, failure = _encoded(found, self.limits.output)
        except MontyError as error:
            failure = _failure(error)
        failure = "output" if printed.over else failure
        return Ran(value if failure is None else None, printed.text(), failure, time.perf_counter() - begun)

    def call(self, code: str, function: str, arguments: Sequence[Any] | Mapping[str, Any]) -> Ran:
        """Run code, then call a function that it defines; the value is what that returns.

        Args:
            code: as of `run`.
            function: its name.
            arguments: values of JSON's kinds, in order or by name.
        """
        if not function.isidentifier():
            return Ran(None, "", f"error: {function[:80]!r} is no name of a function", 0.0)
        stars = "**" if isinstance(arguments, Mapping) else "*"
        given = dict(arguments) if isinstance(arguments, Mapping) else list(arguments)
        return self.run(f"{code}\n\n{function}({stars}_given_arguments)", inputs={"_given_arguments": given})


@lru_cache(maxsize=1)
def shared() -> Sandbox:
    """One for the whole process, with the limits there are by default; it ends with the process."""
    return Sandbox()


def run(code: str, *, inputs: Mapping[str, Any] | None = None) -> Ran:
    """`Sandbox.run` of the shared one."""
    return shared().run(code, inputs=inputs)


def call(code: str, function: str, arguments: Sequence[Any] | Mapping[str, Any]) -> Ran:
    """`Sandbox.call` of the shared one."""
    return shared().call(code, function, arguments)


class _Printed:
    """Takes what is printed, and ends the worker once that is too much: code that floods may well not end itself."""

    def __init__(self, most: int):
        self.worker: int | None = None
        self.over = False
        self._most, self._parts, self._length = most, [], 0

    def __call__(self, stream: str, text: str) -> None:
        del stream
        if self.over:
            return
        self._parts.append(text[: self._most - self._length])
        self._length += len(text)
        if self._length > self._most:
            self.over = True
            if self.worker is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.worker, signal.SIGKILL)

    def text(self) -> str:
        return "".join(self._parts)


def _confine(worker: int | None, memory: int) -> None:
    """Have the kernel refuse a worker what an interpreter has no use for: new files, sockets, processes, memory."""
    if worker is None or sys.platform != "linux":
        return
    kept = {resource.RLIMIT_AS: memory, resource.RLIMIT_NOFILE: 0, resource.RLIMIT_NPROC: 0, resource.RLIMIT_CORE: 0}
    with contextlib.suppress(ProcessLookupError):  # it has just died, which the next thing asked of it will say
        for kind, most in kept.items():
            resource.prlimit(worker, kind, (most, most))


def _encoded(value: Any, most: int) -> tuple[str | None, str | None]:
    """A value as JSON and None, or None and why it is none. One that would unfold without end is left at the limit."""
    parts, length = [], 0
    try:
        for part in _ENCODER.iterencode(value):
            length += len(part)
            if length > most:
                return None, "output"
            parts.append(part)
    except RecursionError:
        return None, "error: the value is not JSON: it is nested too deep"
    except (TypeError, ValueError) as error:
        return None, f"error: the value is not JSON: {error}"[:LONGEST_FAILURE]
    return "".join(parts), None


def _failure(error: MontyError) -> str:
    said = str(error)
    if isinstance(error, MontyCrashedError):
        return "time" if error.timed_out else f"error: the interpreter ended: {said}"[:LONGEST_FAILURE]
    if not isinstance(error, MontySyntaxError | MontyRuntimeError):
        return f"error: {said}"[:LONGEST_FAILURE]
    cause = error.exception()
    if isinstance(cause, TimeoutError) and "time limit exceeded" in said:
        return "time"
    if isinstance(cause, MemoryError) and "memory limit" in said:
        return "memory"
    kind = "forbidden" if isinstance(cause, PermissionError | ImportError) or _WITHHELD.search(said) else "error"
    if isinstance(error, MontySyntaxError):
        said = f"SyntaxError: {said}"
    frames = error.traceback()
    return f"{kind}: {said}"[:LONGEST_FAILURE] + (f" (line {frames[-1].line})" if frames else "")
