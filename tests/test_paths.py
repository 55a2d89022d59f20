"""Whole contexts of many leaves at once, beside a walk up from each."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import BadTable
from pipeline.store.paths import COLUMNS, context_paths, path_logprobs, path_token_ids
from schemas import Nodes
from schemas.base import column_types

TYPES = {name: dtype for name, dtype in column_types(Nodes).items() if name in (*COLUMNS, "logprobs", "copied_from")}


def node(tree, number, parent, context, depth, ids, logprobs=None, copied_from=None):
    return dict(zip(TYPES, (tree, number, parent, context, depth, copied_from, ids, logprobs), strict=True))


#   0 prompt
#   1 attempt          7  its retry's steps again, under the prompt
#   2 prompt about it  8
#   3 reflection
#   4 prompt of the retry
#   5, 6 retry
HAND = [
    node("a", 0, None, 0, 0, [1, 2, 3]),
    node("a", 1, 0, 0, 1, [4, 5], [-0.1, -0.2]),
    node("a", 2, 1, 2, 2, [6, 7]),
    node("a", 3, 2, 2, 3, [8], [-0.3]),
    node("a", 4, 3, 4, 4, [9]),
    node("a", 5, 4, 4, 5, [10], [-0.4]),
    node("a", 6, 5, 4, 6, [11, 12], [-0.5, -0.6]),
    node("a", 7, 0, 0, 1, [10], [-0.4], 5),
    node("a", 8, 7, 0, 2, [11, 12], [-0.5, -0.6], 6),
    node("b", 0, None, 0, 0, []),
    node("b", 1, 0, 0, 1, [20], [-0.7]),
]


def frame(rows) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=TYPES, orient="row")


def walked(rows, leaf: int) -> tuple[list[int], list[float | None]]:
    """The context of one leaf, node by node."""
    at = {(row["tree"], row["node"]): row for row in rows}
    path, end = [rows[leaf]], rows[leaf]
    while path[-1]["node"] != end["context"]:
        path.append(at[end["tree"], path[-1]["parent"]])
    path.reverse()
    ids = [token for row in path for token in row["token_ids"]]
    return ids, [number for row in path for number in row["logprobs"] or [None] * len(row["token_ids"])]


@pytest.mark.parametrize(
    ("leaf", "ids", "logprobs"),
    [
        pytest.param(1, [1, 2, 3, 4, 5], [None, None, None, -0.1, -0.2], id="attempt"),
        pytest.param(3, [6, 7, 8], [None, None, -0.3], id="reflection: begins at its own prompt"),
        pytest.param(6, [9, 10, 11, 12], [None, -0.4, -0.5, -0.6], id="guided retry"),
        pytest.param(8, [1, 2, 3, 10, 11, 12], [None, None, None, -0.4, -0.5, -0.6], id="copy under the task's prompt"),
        pytest.param(4, [9], [None], id="a prompt is its own context"),
        pytest.param(0, [1, 2, 3], [None, None, None], id="root"),
        pytest.param(10, [20], [-0.7], id="empty prompt of another tree"),
    ],
)
def test_one_leaf(leaf, ids, logprobs):
    assert path_token_ids(frame(HAND), np.array([leaf])).to_pylist() == [ids]
    assert path_logprobs(frame(HAND), np.array([leaf])).to_pylist() == [pytest.approx(logprobs)]


def test_leaves_keep_their_order():
    leaves = [8, 10, 1, 8]
    assert path_token_ids(frame(HAND), np.array(leaves)).to_pylist() == [walked(HAND, leaf)[0] for leaf in leaves]
    assert context_paths(frame(HAND), np.array(leaves)).nodes.tolist() == [0, 7, 8, 9, 10, 0, 1, 0, 7, 8]


def test_no_leaves():
    assert path_token_ids(frame(HAND), np.array([])).to_pylist() == []
    assert path_logprobs(frame([]), np.array([])).to_pylist() == []


@pytest.mark.parametrize("lost", [1, 0])
def test_what_is_missing_is_named(lost):
    rows = [row for row in HAND if (row["tree"], row["node"]) != ("a", lost)]
    with pytest.raises(BadTable, match=r"nodes: tree a, node .: its (parent|context) . is not there; "):
        path_token_ids(frame(rows), np.array([5]))


@st.composite
def forests(draw):
    """Rows of some trees: steps, prompts that begin contexts anywhere, copies of chains under earlier nodes."""
    rows = []
    for tree in "ab"[: draw(st.integers(1, 2))]:
        nodes = [node(tree, 0, None, 0, 0, draw(st.lists(st.integers(0, 99), max_size=3)))]
        for number in range(1, draw(st.integers(1, 14))):
            above = nodes[draw(st.integers(0, number - 1))]
            ids, copied = draw(st.lists(st.integers(0, 99), max_size=3)), None
            logprobs = [-float(token) for token in ids]
            kind = draw(st.sampled_from(("step", "prompt", "copy")))
            if kind == "copy" and number > 1:
                source = nodes[draw(st.integers(1, number - 1))]
                ids, logprobs, copied = source["token_ids"], source["logprobs"], source["node"]
            context = number if kind == "prompt" else above["context"]
            logprobs = None if kind == "prompt" else logprobs
            nodes.append(node(tree, number, above["node"], context, above["depth"] + 1, ids, logprobs, copied))
        rows += nodes
    return rows, draw(st.lists(st.integers(0, len(rows) - 1), max_size=20))


@settings(max_examples=200, deadline=None)
@given(forests())
def test_equals_a_walk_from_each_leaf(drawn):
    rows, leaves = drawn
    nodes, ends = frame(rows), np.array(leaves, dtype=np.int64)
    expected = [walked(rows, leaf) for leaf in leaves]
    assert path_token_ids(nodes, ends).to_pylist() == [ids for ids, _ in expected]
    assert path_logprobs(nodes, ends).to_pylist() == [logprobs for _, logprobs in expected]
