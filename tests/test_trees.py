"""Cutting answers into steps, growing trees from them, and choosing where to fork."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.generation.engine import Completion
from pipeline.store.ledger import Entry
from pipeline.trees.fork import Attempt, attempts_of
from pipeline.trees.grow import Tree, nodes_frame, read_trees
from pipeline.trees.segment import Step, cut_steps
from schemas import Nodes

END = "<end>"
HALVES = {"é1": b"\xc3", "é2": b"\xa9"}
VOCABULARY = ["a", "b", " ", "\n", "\n\n", "c\n", "\nd", "e\nf", "  \n", END, *HALVES]


def decode(ids: Sequence[int]) -> str:
    """The text of tokens, the end token left out, halves of characters joined; ids past the vocabulary are blank."""
    pieces = [VOCABULARY[index] if index < len(VOCABULARY) else "" for index in ids]
    return b"".join(HALVES.get(piece, piece.replace(END, "").encode()) for piece in pieces).decode(errors="replace")


def cut(*pieces: str, separator: str = "\n") -> list[Step]:
    ids = np.array([VOCABULARY.index(piece) for piece in pieces], np.int32)
    return cut_steps(ids, separator, closers=closing(separator), decode=decode)


def closing(separator: str) -> np.ndarray:
    return np.array([separator[-1] in piece for piece in VOCABULARY])


@pytest.mark.parametrize(
    ("pieces", "steps"),
    [
        pytest.param(
            ["a", "\n", "b", "\n"], [(0, 2, "a"), (2, 4, "b")], id="a separator belongs to the step it closes"
        ),
        pytest.param(["a", "\n", "b"], [(0, 2, "a"), (2, 3, "b")], id="no separator at the end"),
        pytest.param(["a", "\n", "b", END], [(0, 2, "a"), (2, 4, "b")], id="end token"),
        pytest.param(["a", "\n", END], [(0, 3, "a")], id="end token after a separator joins the step"),
        pytest.param([END], [(0, 1, "")], id="end token alone"),
        pytest.param([], [], id="nothing"),
        pytest.param(["\n", "a", "\n"], [(0, 3, "a")], id="blank before goes to what follows"),
        pytest.param(["a", "\n", "\n", " ", "b"], [(0, 2, "a"), (2, 5, " b")], id="blank between goes to what follows"),
        pytest.param(["a", "\n", "\n", "  \n", END], [(0, 5, "a")], id="blank at the end goes to what was"),
        pytest.param(["\n", "  \n"], [(0, 2, "  ")], id="blank alone"),
        pytest.param(["a", "\n\n", "b"], [(0, 2, "a"), (2, 3, "b")], id="token of two separators"),
        pytest.param(["c\n", "a"], [(0, 1, "c"), (1, 2, "a")], id="token of text and separator"),
        pytest.param(["a", "\nd", "b"], [(0, 2, "a\nd"), (2, 3, "b")], id="token of separator and more stays whole"),
        pytest.param(["é1", "é2", "\n", "é1", "é2"], [(0, 3, "é"), (3, 5, "é")], id="characters of several tokens"),
    ],
)
def test_cut_at_line_breaks(pieces, steps):
    assert cut(*pieces) == steps


@pytest.mark.parametrize(
    ("pieces", "steps"),
    [
        pytest.param(["a", "\n", "b", "\n\n", "b"], [(0, 4, "a\nb"), (4, 5, "b")], id="half a separator cuts nothing"),
        pytest.param(["a", "\n", "\n", "b"], [(0, 3, "a"), (3, 4, "b")], id="a separator of two tokens"),
        pytest.param(["c\n", "\n", "b"], [(0, 2, "c"), (2, 3, "b")], id="a separator that begins within a token"),
        pytest.param(["a", "\n\n", "\n", "b"], [(0, 2, "a"), (2, 4, "\nb")], id="one break too many goes on"),
        pytest.param(["\n\n", "a", "\n\n"], [(0, 3, "a")], id="a separator before any text"),
    ],
)
def test_cut_at_blank_lines(pieces, steps):
    assert cut(*pieces, separator="\n\n") == steps


def test_ids_past_the_vocabulary_close_nothing():
    ids = np.array([0, 999, 3, 1], np.int32)
    assert cut_steps(ids, "\n", closers=closing("\n"), decode=decode) == [(0, 3, "a"), (3, 4, "b")]
    assert cut_steps(ids, "\n", closers=closing("\n")[:3], decode=decode) == [(0, 4, "a\nb")]


@settings(deadline=None)
@given(st.lists(st.sampled_from(VOCABULARY), max_size=30), st.sampled_from(["\n", "\n\n"]))
def test_steps_are_all_of_the_answer(pieces, separator):
    steps = cut(*pieces, separator=separator)
    assert [index for step in steps for index in range(step.start, step.end)] == list(range(len(pieces)))
    ids = [VOCABULARY.index(piece) for piece in pieces]
    if decode(ids).strip():
        assert all(step.text.strip() for step in steps)
    for step in steps[:-1]:
        assert separator in decode(ids[step.start : step.end]).lstrip()
        assert separator not in decode(ids[step.start : step.end - 1]).lstrip()
    assert not any(step.text.startswith(separator) or step.text.endswith(separator) for step in steps)


def entry(*ids: int, key: str = "r", finish: str = "stop") -> Entry:
    """An answer of these tokens; each has the log-probability of its id over minus ten."""
    token_ids = np.array(ids, np.int32)
    done = Completion(key, token_ids, (token_ids / -10).astype(np.float32), finish)
    return Entry(done, np.array([5, 6], np.int32), "policy", "scripted", 0, "{}", 1, "three/r0/rollouts")


def steps_of(*texts: str) -> list[Step]:
    """One token a step."""
    return [Step(index, index + 1, text) for index, text in enumerate(texts)]


def add(tree: Tree, parent: int, *texts: str, origin: str = "sample", key: str = "r", finish: str = "stop") -> int:
    ids = range(10 * len(tree), 10 * len(tree) + len(texts))
    return tree.add_answer(parent, entry(*ids, key=key, finish=finish), steps_of(*texts), kind="step", origin=origin)


def sampled() -> Tree:
    """#     0       the prompt 5 6
    #   1   4     two samples
    #   2   5
    #   3
    """
    tree = Tree("sums/a", "sums/a@r0")
    tree.add_prompt(None, np.array([5, 6], np.int32), text="?", agent="solver")
    assert add(tree, 0, "a", "b", "c") == 3
    assert add(tree, 0, "d", "e", finish="length") == 5
    return tree


def reopened(tree: Tree) -> Tree:
    """As a later stage finds it."""
    return read_trees(nodes_frame([tree]))[tree.task]


def columns(tree: Tree, *names: str) -> list[tuple]:
    return [tuple(tree[node][name] for name in names) for node in range(len(tree))]


def test_an_answer_is_a_chain():
    tree = sampled()
    assert columns(tree, "parent", "depth", "context", "kind", "origin", "sampled", "finish") == [
        (None, 0, 0, "prompt", "prompt", False, None),
        (0, 1, 0, "step", "sample", True, None),
        (1, 2, 0, "step", "sample", True, None),
        (2, 3, 0, "step", "sample", True, "stop"),
        (0, 1, 0, "step", "sample", True, None),
        (4, 2, 0, "step", "sample", True, "length"),
    ]
    assert columns(tree, "token_ids", "text")[:3] == [([5, 6], "?"), ([10], "a"), ([11], "b")]
    assert tree[2]["logprobs"] == pytest.approx([-1.1])
    assert (tree[1]["request"], tree[1]["policy"], tree[0]["request"]) == ("r", "policy", None)
    assert {row["episode"] for row in tree.nodes} == {"sums/a@r0"}


def test_a_step_of_several_tokens_keeps_them_all():
    tree = sampled()
    leaf = tree.add_answer(2, entry(7, 8, 9), [Step(0, 2, "x"), Step(2, 3, "y")], kind="step", origin="branch")
    assert columns(tree, "token_ids", "finish")[6:] == [([7, 8], None), ([9], "stop")]
    assert tree[leaf - 1]["logprobs"] == pytest.approx([-0.7, -0.8])


def test_paths():
    tree = sampled()
    assert tree.path(3) == [0, 1, 2, 3]
    assert tree.path(0) == [0]
    assert tree.texts(3) == ["a", "b", "c"]
    assert tree.tokens(5).tolist() == [5, 6, 40, 41]
    assert tree.tokens(5).dtype == np.int32
    assert [tree.last_of(node) for node in (1, 3, 4)] == [3, 3, 5]


def test_a_later_stage_goes_on_with_the_numbers():
    tree = reopened(sampled())
    assert (tree.first, len(tree)) == (6, 6)
    assert add(tree, 1, "x", "y", origin="branch") == 7
    assert (len(tree), [row["node"] for row in tree.nodes]) == (8, [6, 7])
    assert tree.path(7) == [0, 1, 6, 7]
    assert tree.tokens(7).tolist() == [5, 6, 10, 60, 61]
    assert (tree[6]["parent"], tree[6]["depth"], tree[2]["text"]) == (1, 2, "b")
    assert nodes_frame([tree])["node"].to_list() == [6, 7]


def test_a_later_prompt_begins_a_context():
    tree = sampled()
    ask = tree.add_prompt(3, np.array([50], np.int32), text="why?", agent="reflector")
    leaf = add(tree, ask, "since")
    assert columns(tree, "parent", "context", "depth", "agent")[6:] == [(3, 6, 4, "reflector"), (6, 6, 5, "solver")]
    assert tree.path(leaf) == [6, 7]
    assert tree.tokens(leaf).tolist() == [50, 70]
    assert tree.texts(leaf) == ["since"]
    assert tree.path(3) == [0, 1, 2, 3]


@pytest.mark.parametrize("later", [False, True], ids=["same stage", "later stage"])
def test_copies_stand_in_another_context(later):
    """#  0 - 1 - 2 - 3 - 6     attempt, then the prompt of a retry
    #  |                 7     the retry
    #  |                 8
    #  9 - 10                  its copy below the root
    """
    tree = sampled()
    guided = tree.add_prompt(3, np.array([50], np.int32), text="again", agent="solver")
    leaf = add(tree, guided, "p", "q", origin="guided_retry", key="r2")
    tree = reopened(tree) if later else tree
    assert tree.copy_chain(leaf, 0, origin="retry") == 10
    assert tree.path(10) == [0, 9, 10]
    assert columns(tree, "parent", "context", "depth", "origin", "sampled", "copied_from", "finish")[9:] == [
        (0, 0, 1, "retry", False, 7, None),
        (9, 0, 2, "retry", False, 8, "stop"),
    ]
    for name in ("token_ids", "logprobs", "text", "kind", "agent", "request", "policy"):
        assert [tree[9][name], tree[10][name]] == [tree[7][name], tree[8][name]]
    assert tree.tokens(10).tolist() == [5, 6, 70, 71]


def test_frames_fit_the_table():
    tree = sampled()
    guided = tree.add_prompt(3, np.array([50], np.int32), text="again", agent="solver")
    tree.copy_chain(add(tree, guided, "p", origin="guided_retry"), 0, origin="retry")
    tree.add(1, kind="step", origin="intervention", agent="editor", token_ids=[1], text="written by hand")
    frame = Nodes.validate(nodes_frame([tree, Tree("sums/b", "sums/b@r0")]))
    assert frame.height == len(tree) == 10
    assert frame["logprobs"].null_count() == 3
    assert Nodes.validate(nodes_frame([])).height == 0


def test_trees_are_read_by_task():
    other = Tree("sums/b", "sums/b@r0")
    other.add_prompt(None, np.array([7], np.int32), text="!", agent="solver")
    trees = read_trees(pl.concat([nodes_frame([sampled()]), nodes_frame([other])]))
    assert {task: (tree.tree, len(tree)) for task, tree in trees.items()} == {
        "sums/a": ("sums/a@r0", 6),
        "sums/b": ("sums/b@r0", 1),
    }
    assert trees["sums/a"][5]["finish"] == "length"


def test_attempts_of_one_origin_with_a_verdict():
    """#     0
    #   1   4   8     8 has no verdict
    #   2 6 5
    #   3 7           6, 7: a branch
    """
    tree = sampled()
    add(tree, 1, "x", "y", origin="branch")
    add(tree, 0, "z")
    tree = reopened(tree)
    rewards = {(tree.tree, 3): 1.0, (tree.tree, 5): 0.0, (tree.tree, 7): 1.0, (tree.tree, 2): 1.0, ("other@r0", 8): 1.0}
    assert attempts_of(tree, rewards) == [Attempt(3, (1, 2, 3), 1.0), Attempt(5, (4, 5), 0.0)]
    assert attempts_of(tree, rewards, origin="branch") == [Attempt(7, (1, 6, 7), 1.0)]
