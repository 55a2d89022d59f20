"""Cutting answers into steps, growing trees from them, and choosing where to fork."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.generation.engine import Completion
from pipeline.store.ledger import Entry
from pipeline.trees.fork import Attempt, attempts_of, inner_steps, mixed_attempts
from pipeline.trees.grow import Tree, nodes_frame, read_trees
from pipeline.trees.segment import Step, cut_steps
from schemas import Nodes

END = "<end>"
PIECES = ["a", "b", " ", "\n", "\n\n", "c\n", "\nd", "e\nf", "  \n", END]
BYTES = {"é1": b"\xc3", "é2": b"\xa9"}
VOCABULARY = [*PIECES, *BYTES]


def decode(ids: Sequence[int]) -> str:
    """The text of tokens, the end token left out, halves of characters joined; ids past the vocabulary are blank."""
    pieces = [VOCABULARY[index] if index < len(VOCABULARY) else "" for index in ids]
    return b"".join(BYTES.get(piece, piece.replace(END, "").encode()) for piece in pieces).decode(errors="replace")


def cut(*pieces: str, separator: str = "\n", closers: int = len(VOCABULARY)) -> list[Step]:
    ids = np.array([VOCABULARY.index(piece) for piece in pieces], np.int32)
    return cut_steps(ids, separator, closers=closing(separator)[:closers], decode=decode)


def closing(separator: str) -> np.ndarray:
    return np.array([separator[-1] in piece for piece in VOCABULARY])


@pytest.mark.parametrize(
    ("pieces", "steps"),
    [
        pytest.param(["a", "\n", "b", "\n"], [(0, 2, "a"), (2, 4, "b")], id="a separator belongs to the step it closes"),
        pytest.param(["a", "\n", "b"], [(0, 2, "a"), (2, 3, "b")], id="no separator at the end"),
        pytest.param(["a", "\n", "b", END], [(0, 2, "a"), (2, 4, "b")], id="end token"),
        pytest.param(["a", "\n", END], [(0, 3, "a")], id="end token after a separator joins the step"),
        pytest.param([END], [(0, 1, "")], id="end token alone"),
        pytest.param([], [], id="nothing"),
        pytest.param(["\n", "a", "\n"], [(0, 3, "\na")], id="blank before goes to what follows"),
        pytest.param(["a", "\n", "\n", " ", "b"], [(0, 2, "a"), (2, 5, "\n b")], id="blank between goes to what follows"),
        pytest.param(["a", "\n", "\n", "  \n", END], [(0, 5, "a")], id="blank at the end goes to what was"),
        pytest.param(["\n", "  \n"], [(0, 2, "\n  ")], id="blank alone"),
        pytest.param(["c\n", "a"], [(0, 1, "c"), (1, 2, "a")], id="token of text and separator"),
        pytest.param(["a", "\nd", "b"], [(0, 2, "a\nd"), (2, 3, "b")], id="token of separator and more stays whole"),
        pytest.param(["é1", "é2", "\n", "é1", "é2"], [(0, 3, "é"), (3, 5, "é")], id="characters of several tokens"),
    ],
)
def test_cut_at_line_breaks(pieces, steps):
    assert cut(*pieces) == steps
