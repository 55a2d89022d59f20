"""The prompt of `branchpoint sql`, typed into: answers, lines, completion, history, interruptions, a real terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from two_trees import forest

from pipeline import cli_prompt, show
from pipeline.cli_prompt import Names, converse, is_whole
from pipeline.store.query import open_database
from pipeline.store.store import Store

CTRL_C, CTRL_D = "\x03", "\x04"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return forest(Store(tmp_path_factory.mktemp("prompt") / "store"))


@pytest.fixture(scope="module")
def connection(store: Store):
    with open_database(store) as connection:
        yield connection


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cli_prompt, "user_state_path", lambda name: tmp_path / "state" / name)
    return tmp_path / "state" / "branchpoint"


@pytest.fixture
def type_in(connection, capsys):
    """Types keys into the prompt; gives what was printed and what was said on stderr."""

    def typed(*keys: str, form=show.print_json) -> tuple[list[str], str]:
        with create_pipe_input() as source, create_app_session(input=source, output=DummyOutput()):
            source.send_text("".join(keys))
            converse(connection, form)
        said = capsys.readouterr()
        return said.out.splitlines()[1:], said.err

    return typed


@pytest.mark.parametrize("leave", [CTRL_D, "\\q\r", "\\q;\r", ".quit\r", ".exit\r", "quit\r", "exit;\r"])
def test_leaving(type_in, leave):
    assert type_in("select 1 as a;\r", leave) == (['{"a": 1}'], "")


def test_a_statement_may_take_lines(type_in):
    assert type_in("select 1 as a,\r  ';' as b\r;\r", "\r", "select 2 as c; select 3 as d;\r", CTRL_D) == (
        ['{"a": 1, "b": ";"}', '{"c": 2}', '{"d": 3}'],
        "",
    )


def test_what_goes_wrong_takes_a_line(type_in):
    out, err = type_in("from nods;\r", "drop view nodes;\r", ".schema nods\r", ".foo\r", ";\r", "select 1 a;\r", CTRL_D)
    assert out == ['{"a": 1}']
    assert [
        re.search(said, line) is not None
        for said, line in zip(
            ['Did you mean "nodes"', "does not only read", "did you mean 'nodes'", "command '.foo'", "query is empty"],
            err.splitlines(),
            strict=True,
        )
    ] == [True] * 5


def test_ctrl_c_drops_what_is_typed(type_in):
    assert type_in("select 1 as a,", CTRL_C, "select 2 as b;\r", CTRL_D) == (['{"b": 2}'], "")


def test_interrupted_query(type_in, connection, monkeypatch):
    monkeypatch.setattr(cli_prompt, "ask", interrupted)
    assert type_in("from nodes;\r", CTRL_D) == ([], "branchpoint: interrupted\n")


def interrupted(connection, sql):
    raise KeyboardInterrupt


def test_tables_and_schema(type_in):
    out, _ = type_in(".tables\r", CTRL_D, form=show.print_csv)
    assert out[0] == "name,kind,what"
    assert "verdicts,view,A judged leaf." in out
    assert '"path(of_tree, of_node)",macro,"The nodes from the root to a node, by parent."' in out
    assert [line.split(",")[0] for line in out if ",table," in line] == ["shards"]
    out, _ = type_in(".schema nodes\r", CTRL_D, form=show.print_csv)
    assert "parent,INTEGER,What led to this node. Null: the root." in out
    assert "file,VARCHAR," in out
    assert len(type_in(".help\r", CTRL_D)[0]) == 4


def completions(connection, text: str) -> list[str]:
    return [found.text for found in Names(connection).get_completions(Document(text), None)]


def test_completion(connection):
    assert completions(connection, "select * from nod") == ["nodes"]
    assert completions(connection, "FROM tre") == ["tree_nodes("]
    assert completions(connection, "select first_e") == ["first_error("]
    assert completions(connection, "select token_co") == ["token_count"]
    assert completions(connection, "from token_co") == []
    assert completions(connection, "selec") == ["select"]
    assert completions(connection, ".schema step_") == ["step_labels"]


def test_history(type_in, state):
    type_in("select 1 as a;\r", CTRL_D)
    path = state / "sql_history"
    assert "select 1 as a;" in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    assert list(cli_prompt._history().load_history_strings()) == ["select 1 as a;"]


def test_without_a_place_for_history(type_in, state):
    state.parent.mkdir()
    state.write_text("a file in its place")
    assert type_in("select 1 as a;\r", CTRL_D)[0] == ['{"a": 1}']


@pytest.mark.parametrize(
    ("typed", "whole"),
    [
        *(("", True), ("select 1;", True), ("select 1; ", True), (".tables", True), ("\\q", True), ("exit", True)),
        *(("select 1", False), ("select ';", False), ("select 'it''s;'", False), ("select 'it''s';", True)),
    ],
)
def test_whole(typed, whole):
    assert is_whole(typed) is whole


@pytest.fixture
def terminal(store, tmp_path):
    """`branchpoint sql` at a terminal of its own: a descriptor to type into and to read from."""
    outer, inner = pty.openpty()
    command = [sys.executable, "-c", "from pipeline.cli import main; raise SystemExit(main())", "sql", "--json"]
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
    process = subprocess.Popen(
        [*command, "--store", str(store.root)],
        stdin=inner,
        stdout=inner,
        stderr=inner,
        env=environment,
        cwd=Path(__file__).parent.parent,
        preexec_fn=lambda: (os.setsid(), __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0)),
    )
    os.close(inner)
    yield outer, process
    process.kill()
    process.wait()
    os.close(outer)


def read_until(descriptor: int, pattern: str, *, seconds: float = 30) -> None:
    """Read what the terminal shows until that matches a pattern."""
    shown, end = "", time.monotonic() + seconds
    while not re.search(pattern, shown, re.DOTALL):
        assert time.monotonic() < end, shown
        if select.select([descriptor], [], [], 1)[0]:
            shown += os.read(descriptor, 4096).decode(errors="replace")


def test_at_a_terminal(terminal):
    descriptor, process = terminal
    read_until(descriptor, "branchpoint>")
    os.write(descriptor, b"select 41 + 1 as n;\r")
    read_until(descriptor, '"n": 42.*branchpoint>')
    slow = "select sum(a.range * b.range) from range(10000000) a, range(10000000) b"
    os.write(descriptor, f"select 'be' || 'gun' as a; {slow};\r".encode())
    read_until(descriptor, "begun")
    time.sleep(1)
    os.write(descriptor, CTRL_C.encode())
    read_until(descriptor, "branchpoint: interrupted.*branchpoint>")
    os.write(descriptor, b"select count(*) + 34 as m from verd\t")
    read_until(descriptor, "icts")
    os.write(descriptor, b";\r")
    read_until(descriptor, '"m": 42.*branchpoint>')
    os.write(descriptor, CTRL_D.encode())
    assert process.wait(timeout=30) == 0
