"""The sandbox against code that means harm: each run ends within its limits, says why, and the next one works."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.errors import BadConfig
from pipeline.tools import sandbox as module
from pipeline.tools.sandbox import LONGEST_FAILURE, Limits, Sandbox

LIMITS = Limits(seconds=1.0, megabytes=32, output=1000, code=10_000)


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(LIMITS, workers=2) as made:
        yield made


HOSTILE = {
    "loops": ("while True: pass", "time"),
    "loops and catches": ("while True:\n try:\n  while True: pass\n except BaseException: pass", "time"),
    "loops in the library": ("sum(range(10**15))", "time"),
    "waits for a frozen clock": ("import time\nend = time.time() + 1\nwhile time.time() < end: pass", "time"),
    "a string of 10 GB": ("'a' * 10 * 2**30", "memory"),
    "10 GB bit by bit": ("x = []\nwhile True: x.append('a' * 10**6)", "memory"),
    "10 GB, caught": (
        "x = []\nwhile True:\n try:\n  x.append('a' * 10**6)\n except BaseException: pass",
        ("memory", "time"),
    ),
    "a power": ("2 ** 10 ** 10", "memory"),
    "a format": ("f'{1:10000000000}'", "memory"),
    "prints 100 MB at once": ("print('a' * 25_000_000, 'b' * 75_000_000)", ("output", "memory")),
    "prints 100 MB": ("for _ in range(10**6): print('a' * 100)", "output"),
    "prints for ever": ("while True: print('a' * 100)", "output"),
    "returns much": ("'a' * 10**6", "output"),
    "returns a list in a list ten ways, twelve deep": ("x = [1]\nfor _ in range(12): x = [x] * 10\nx", "output"),
    "returns brackets in brackets": (
        "x = []\nfor _ in range(10**4): x = [x]\nx",
        "error: the value is not JSON: it is nested",
    ),
    "returns a set": ("{1, 2}", "error: the value is not JSON: Object of type set"),
    "returns no number": ("float('nan')", "error: the value is not JSON: Out of range"),
    "returns an object": ("class A: pass\nA()", "error: the value is not JSON: Object of type"),
    "forks": ("import os\nos.fork()", "forbidden: AttributeError: module 'os'"),
    "runs a command": ("import os\nos.system('true')", "forbidden: AttributeError: module 'os'"),
    "lists a folder": ("import os\nos.listdir('/')", "forbidden: PermissionError"),
    "reads the environment": ("import os\nos.environ['PATH']", "forbidden: "),
    "reads a file": ("open('/etc/passwd').read()", "forbidden: PermissionError"),
    "reads by a path": ("from pathlib import Path\nPath('/etc/passwd').read_text()", "forbidden: PermissionError"),
    "writes a file": ("open('/tmp/sandbox', 'w').write('x')", "forbidden: PermissionError"),
    "opens a socket": ("import socket\nsocket.create_connection(('127.0.0.1', 80))", "forbidden: ModuleNotFoundError"),
    "loads a library": ("import ctypes\nctypes.CDLL(None)", "forbidden: ModuleNotFoundError"),
    "starts a process": ("import subprocess\nsubprocess.run(['true'])", "forbidden: ModuleNotFoundError"),
    "imports by name": ("__import__('os')", "error: NameError"),
    "walks to the base class": ("().__class__.__mro__[1].__subclasses__()", "error: AttributeError"),
    "walks from a function": ("(lambda: 0).__globals__", "error: AttributeError"),
    "recurses without end": ("def f(n): return f(n + 1)\nf(0)", "error: RecursionError"),
    "shows itself without end": (
        "class A:\n def __repr__(self): return repr(self)\nrepr(A())",
        "error: RecursionError",
    ),
    "brackets without end": ("(" * 9000, "error: SyntaxError"),
    "raises a long message": ("raise ValueError('x' * 10**6)", "error: ValueError: xxx"),
    "ends the program": ("raise SystemExit", "error: "),
    "interrupts": ("raise KeyboardInterrupt", "error: KeyboardInterrupt"),
    "is no Python": ("def", "error: SyntaxError"),
    "is no text": ("x = '\ud800'", "error: SyntaxError"),
    "is too long": ("#" * 10_001, "error: the code has over 10000 characters"),
}


@pytest.mark.parametrize(("code", "failure"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_code_is_stopped_and_the_next_runs(sandbox, code, failure):
    begun = time.monotonic()
    ran = sandbox.run(code)
    assert time.monotonic() - begun < 10
    assert ran.failure.startswith(failure), ran.failure[:200]
    assert ran.value is None
    assert ran.exit_code > 0
    assert len(ran.printed) <= LIMITS.output
    assert len(ran.failure) <= LONGEST_FAILURE + 20
    assert sandbox.run("1 + 1").value == "2"


class TestRun:
    @pytest.mark.parametrize(
        ("code", "value", "printed"),
        [
            ("1 + 1", "2", ""),
            ("x = 1", "null", ""),
            ("print('a')\nprint('b', end='')\n(1, 'ü', None)", '[1, "ü", null]', "a\nb"),
            ("import math, re, json, itertools\nmath.comb(10, 3)", "120", ""),
            ("", "null", ""),
        ],
    )
    def test_value_and_print(self, sandbox, code, value, printed):
        ran = sandbox.run(code)
        assert (ran.value, ran.printed, ran.failure, ran.exit_code) == (value, printed, None, 0)
        assert 0 < ran.seconds < 10

    def test_a_value_that_holds_itself_ends(self, sandbox):
        assert sandbox.run("x = []\nx.append(x)\nx").value == '["[...]"]'

    def test_inputs(self, sandbox):
        assert json.loads(sandbox.run("[x, y['a']]", inputs={"x": 2**70, "y": {"a": [None]}}).value) == [2**70, [None]]

    @pytest.mark.parametrize("inputs", [{"x y": 1}, {"class": 1}, {"x": object()}, {"x": "\ud800"}])
    def test_inputs_that_are_none(self, sandbox, inputs):
        assert sandbox.run("1", inputs=inputs).failure.startswith("error: ")

    def test_a_failure_keeps_what_was_printed_and_names_the_line(self, sandbox):
        ran = sandbox.run("print('so far')\n1 / 0")
        assert ran.told == "so far\nerror: ZeroDivisionError: division by zero (line 2)"

    def test_what_is_printed_is_cut_at_the_limit(self, sandbox):
        assert sandbox.run("while True: print('0123456789' * 7)").printed[:22] == "0123456789" * 2 + "01"
        assert len(sandbox.run("while True: print('0123456789' * 7)").printed) == LIMITS.output

    def test_a_run_sees_no_other(self, sandbox):
        sandbox.run("x = 1\nimport json\njson.dumps = None")
        with ThreadPoolExecutor(4) as threads:
            assert {ran.failure[:16] for ran in threads.map(sandbox.run, ["x"] * 8)} == {"error: NameError"}

    def test_the_same_code_gives_the_same(self, sandbox):
        code = "import random, time, datetime\nnow = datetime.datetime.now()\n"
        code += "[random.random(), time.time(), str(now), list({'a', 'b'})]"
        ran = sandbox.run(code)
        with Sandbox(LIMITS) as other:
            assert ran.failure is None
            assert other.run(code).value == ran.value


class TestCall:
    CODE = "def f(a, b=2):\n    return {'sum': a + b}\n"

    @pytest.mark.parametrize("arguments", [[1], [1, 2], {"a": 1}, {"b": 2, "a": 1}])
    def test_arguments(self, sandbox, arguments):
        assert sandbox.call(self.CODE, "f", arguments).value == '{"sum": 3}'

    @pytest.mark.parametrize(
        ("function", "arguments", "failure"),
        [
            ("g", [1], "error: NameError"),
            ("f", [], "error: TypeError"),
            ("f", ["a"], "error: TypeError"),
            ("f(1); f", [1], "error: 'f(1); f' is no name"),
        ],
    )
    def test_failures(self, sandbox, function, arguments, failure):
        assert sandbox.call(self.CODE, function, arguments).failure.startswith(failure)


class TestWorkers:
    def test_a_batch_goes_on_past_its_hostile_members(self, sandbox):
        codes = [*[code for code, _ in HOSTILE.values()], "1 + 1"] * 2
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(sandbox.run, codes))
        assert [ran.value for ran in found[len(HOSTILE) :: len(HOSTILE) + 1]] == ["2", "2"]
        assert sum(ran.failure is None for ran in found) == 2

    def test_a_worker_killed_from_outside_is_replaced(self, sandbox, monkeypatch):
        """As when the system is short of memory: the run that it held says so, and the next one works."""
        monkeypatch.setattr(module, "_confine", lambda worker, memory: os.kill(worker, 9))
        assert sandbox.run("1").failure.startswith("error: the interpreter ended")
        monkeypatch.undo()
        assert sandbox.run("1").value == "1"

    def test_the_kernel_stops_what_the_interpreter_lets_through(self, monkeypatch):
        """Monty's own limit of memory is put out of the way; that of the process holds."""
        confine = module._confine
        monkeypatch.setattr(module, "_confine", lambda worker, memory: confine(worker, 2**29))
        with Sandbox(Limits(megabytes=2**20)) as made:
            assert made.run("len('a' * 2**20)").value == str(2**20)
            ran = made.run("len('a' * 2**30)")
            assert (ran.value, ran.exit_code > 0) == (None, True)
            assert made.run("1").value == "1"

    def test_thousands_are_cheap(self, sandbox):
        assert {sandbox.run(f"{number} % 7").exit_code for number in range(2000)} == {0}


@pytest.mark.parametrize(
    "limits", [{"seconds": 0.0}, {"seconds": float("nan")}, {"megabytes": 0}, {"output": 0}, {"code": 0}]
)
def test_limits_that_leave_nothing(limits):
    with pytest.raises(BadConfig, match=f"sandbox {next(iter(limits))} is"):
        Limits(**limits)


def test_the_shared_one():
    assert module.run("x", inputs={"x": 1}).value == "1"
    assert module.call("def f(): return 2", "f", []).value == "2"
    assert module.shared() is module.shared()
