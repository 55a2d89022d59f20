"""Text as Markdown that shows it and does nothing else: what comes from tasks and models is untrusted.

It stands in a fence longer than any it holds, or in code spans.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

UNKNOWN = "unknown"
"""In a cell of which nothing is known."""


def fence(text: str) -> str:
    """Untrusted text as a code block that nothing in it can close; what does not print is escaped."""
    shown = "".join(char if char.isprintable() or char == "\n" else _escape(char) for char in text)
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    return f"{ticks}text\n{shown}\n{ticks}"


def code(text: str) -> str:
    """Untrusted text as a code span of one line."""
    shown = "".join(char if char.isprintable() else _escape(char) for char in text)
    if not shown.strip():
        return "(empty)"
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    pad = " " if shown[0] == "`" or shown[-1] == "`" else ""
    return f"{ticks}{pad}{shown}{pad}{ticks}"


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode()


def prose(text: str) -> str:
    """Our own words in Markdown: outside code spans, what looks like HTML or emphasis is neither."""
    spans = re.split(r"(`[^`]*`)", text)
    spans[::2] = [span.replace("&", "&amp;").replace("<", "&lt;").replace("*", "\\*") for span in spans[::2]]
    return "".join(spans)


def names(words: Iterable[str]) -> str:
    """Column names of ours, as code spans."""
    return ", ".join(f"`{word}`" for word in words)


def figures_table(head: Sequence[str], rows: Iterable[Sequence[str | int]]) -> str:
    """A table in Markdown; whole numbers with commas."""
    lines = [head, ["---"] * len(head), *([f"{c:,}" if isinstance(c, int) else c for c in row] for row in rows)]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    """Without borders. Renderers do not agree on a bar after two backslashes: after one of its own it is escaped."""
    return text.replace("\\|", "\\\\x7c").replace("|", "\\|")
