"""The prompt of `branchpoint sql`: takes statements from a terminal until it is left. Knows not what they ask."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from platformdirs import user_state_path
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import PygmentsLexer
from pygments.lexers.sql import SqlLexer

from pipeline import show
from pipeline.cli_options import check_choice
from pipeline.errors import BranchpointError
from pipeline.store.query import Answer, ask, run_query

if TYPE_CHECKING:
    import duckdb

BEGINNING, GOING_ON = "branchpoint> ", "        ...> "
HELP = """\
a statement ends with ;    Enter before that begins another line
.tables                    views, tables and macros
.schema TABLE              its columns
Tab completes, Up goes back to earlier statements, Ctrl-C stops a query, Ctrl-D or \\q leaves"""
LEAVING = ("\\q", ".quit", ".exit", "quit", "exit")
_NAMES = """
    select view_name as name, 'view' as kind, comment as said from duckdb_views() where not internal
    union all select table_name, 'table', comment from duckdb_tables() where not internal
    union all
    select function_name || '(' || array_to_string(parameters, ', ') || ')', 'macro', comment
    from duckdb_functions() where not internal
    order by kind desc, name
"""
_COLUMNS = "select column_name, data_type, comment from duckdb_columns() where table_name = ? and not internal"
_WORDS = """
    select distinct column_name from duckdb_columns() where not internal
    union select keyword_name from duckdb_keywords() where keyword_category = 'reserved'
    order by all
"""
_SOURCE = re.compile(r"(\b(from|join|describe|summarize)|\.schema)\s+\w*$", re.IGNORECASE)


def converse(connection: duckdb.DuckDBPyConnection, form: Callable[..., None]) -> None:
    """Answer whatever is typed until the end is typed. What goes wrong is one line on stderr.

    Args:
        form: prints columns and rows, as those of `show` do.
    """
    session = PromptSession(
        BEGINNING,
        multiline=True,
        prompt_continuation=GOING_ON,
        key_bindings=_keys(),
        completer=Names(connection),
        complete_while_typing=False,
        lexer=PygmentsLexer(SqlLexer),
        history=_history(),
    )
    print("statements end with ;  .help tells the rest")
    while True:
        try:
            typed = session.prompt().strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        if typed.rstrip(";").strip() in LEAVING:
            return
        try:
            for answer in _answers(connection, typed):
                form(answer.columns, answer.rows, to=sys.stdout)
        except BranchpointError as error:
            print(f"branchpoint: {show.plain(' '.join(str(error).split()))}", file=sys.stderr)
        except KeyboardInterrupt:
            print("branchpoint: interrupted", file=sys.stderr)


def _answers(connection: duckdb.DuckDBPyConnection, typed: str) -> Iterator[Answer]:
    command, _, rest = typed.rstrip(";").strip().partition(" ")
    if command == ".help":
        print(HELP)
    elif command == ".tables":
        names, kinds, said = zip(*run_query(connection, _NAMES).rows, strict=True)
        first = ((text or "").split(". ")[0] for text in said)
        yield Answer(("name", "kind", "what"), iter(list(zip(names, kinds, first, strict=True))))
    elif command == ".schema":
        known = [name for name, kind, _ in run_query(connection, _NAMES).rows if kind != "macro"]
        check_choice("table", rest.strip(), known)
        yield run_query(connection, _COLUMNS, [rest.strip()])
    elif command.startswith((".", "\\")):
        check_choice("command", command, (".help", ".tables", ".schema", "\\q"))
    elif typed:
        yield from ask(connection, typed)


def is_whole(typed: str) -> bool:
    """Whether Enter ends what is typed: it is empty, a command, or ends in a `;` that is in no string."""
    typed = typed.strip()
    if not typed or typed.startswith((".", "\\")) or typed in LEAVING:
        return True
    return typed.endswith(";") and typed.count("'") % 2 == 0


class Names(Completer):
    """Completes names of views, tables and macros; elsewhere than after `from` also columns and keywords."""

    def __init__(self, connection: duckdb.DuckDBPyConnection):
        self._sources = [re.sub(r"\(.*", "(", name) for name, *_ in run_query(connection, _NAMES).rows]
        self._words = [word for (word,) in run_query(connection, _WORDS).rows]

    def get_completions(self, document: Document, complete_event: object) -> Iterator[Completion]:
        before = document.text_before_cursor
        word = re.search(r"\w*$", before)[0]
        known = self._sources if _SOURCE.search(before) else [*self._sources, *self._words]
        for name in dict.fromkeys(known):
            if name.startswith(word.lower()):
                yield Completion(name, start_position=-len(word))


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state and buffer.complete_state.current_completion:
            buffer.complete_state = None
        elif is_whole(buffer.text):
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    return keys


def _history() -> History:
    """Statements of earlier times, for this person's eyes alone; of this time where there is no place for them."""
    path = user_state_path("branchpoint") / "sql_history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.open("ab").close()
    except OSError:
        return InMemoryHistory()
    return FileHistory(path)
