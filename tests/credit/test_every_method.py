"""What holds of every credit method on stored trees, whatever it computes."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.credit import METHODS, in_every_round, labelled, scored_by
from pipeline.credit.columns import CreditColumns, Trees, ranges
from pipeline.credit.inputs import INPUTS, NODE
from pipeline.credit.tables import credit_frame
from schemas import Credit
from schemas.words import FINISHES, KINDS, ORIGINS

COLUMNS = tuple(field.name for field in fields(CreditColumns))
OF_SCORES = ("sotopia_rl", "lare", "archer", "r_to_q", "t_reg")
OF_VERDICTS = [name for name in METHODS if "step_reward" not in METHODS[name].needs and name not in OF_SCORES]
"""The others look at what an environment paid, or at scores alone."""
OF_TASKS = [name for name in METHODS if not METHODS[name].across_tasks(METHODS[name].params())]


def draw_given(draw, name: str, count: int, tokens: int) -> np.ndarray | pl.Series:
    size = count if INPUTS[name].per == NODE else tokens
    scored = {
        "scores.value": st.sampled_from([np.nan, 0.0, 0.25, 1.0]),
        "scores.token_values": st.sampled_from([np.nan, 0.0, -0.5, -2.0]),
        "scores.text": st.sampled_from([None, "[]", "[1, 0]", '["a"]']),
    }
    flag = st.sampled_from([np.nan, 0.0, 1.0])
    values = {
        **{name: scored.get(INPUTS[name].source)},
        "agent": st.integers(0, 2),
        "sampled": st.booleans(),
        "state": st.integers(-1, 3),
        "step_reward": st.sampled_from([0.0, 1.0, -0.5]),
        "text": st.sampled_from(["", "a b", "<think>x</think> <answer>1</answer>"]),
        "tool_calls": st.sampled_from([None, "[]", '[{"name": "search", "arguments": {}}]']),
        "step_soft": st.sampled_from([np.nan, 0.0, 0.25, 1.0]),
        "step_hard": st.sampled_from([np.nan, 0.0, 1.0]),
        "logprobs": st.sampled_from([np.nan, -0.01, -0.5, -2.0]),
        "kind": st.integers(0, len(KINDS) - 1),
        "origin": st.integers(0, len(ORIGINS) - 1),
        "finish": st.integers(-1, len(FINISHES) - 1),
        "turn": st.integers(0, 3),
        "useful": st.sampled_from([None, "[]", "[1, 0]", "[1, 1]"]),
        "subgoals": st.sampled_from([None, "[]", '["a"]', '["b", "a", "c"]']),
        "reference_calls": st.sampled_from([None, "[]", '[{"name": "search", "arguments": {}}, {"name": "add"}]']),
        "searched": st.sampled_from([np.nan, -1.0, 0.0, 1.0]),
        **dict.fromkeys(("closed_book", "key_turn", "long_thinking", "budget"), flag),
    }[name]
    drawn = [draw(values) for _ in range(size)]
    if name in ("text", "tool_calls") or INPUTS[name].source == "scores.text":
        return pl.Series(drawn, dtype=pl.String)
    whole = name in ("agent", "state", "kind", "origin", "finish", "turn")
    return np.array(drawn, dtype=np.int64 if whole else np.bool_ if name == "sampled" else np.float64)


@st.composite
def forests(draw, needs: tuple[str, ...]) -> list[Trees]:
    """Some trees, each by itself: deep, wide, of a single node; leaves unjudged, steps without tokens."""
    found = []
    for _ in range(draw(st.integers(1, 3))):
        count = draw(st.integers(1, 9))
        parent = [-1, *(draw(st.integers(0, row - 1)) for row in range(1, count))]
        depth = [0] * count
        for row in range(1, count):
            depth[row] = depth[parent[row]] + 1
        leaf = [row not in parent for row in range(count)]
        same = draw(st.booleans())
        reward = [
            draw(st.sampled_from([np.nan, 1.0] if same else [np.nan, 0.0, 0.3, 1.0])) if end else np.nan for end in leaf
        ]
        lengths = [draw(st.integers(0, 2)) for _ in range(count)]
        known = {name: draw_given(draw, name, count, sum(lengths)) for name in needs if name != "tokens"}
        if "budget" in known:  # rises along every path
            known["budget"] = np.where(
                (known["budget"] == 1) & (np.array(depth) < 5), np.maximum(depth, 1) - 1.0, np.nan
            )
        found.append(
            Trees(
                parent=np.array(parent, np.int32),
                depth=np.array(depth, np.int32),
                tree=np.zeros(count, np.int32),
                reward=np.array(reward, np.float64),
                tokens=np.array([draw(st.integers(0, 2)) for _ in range(sum(lengths))], np.int32),
                token_offsets=np.cumsum([0, *lengths], dtype=np.int64),
                given=known,
            )
        )
    return found


def together(some: list[Trees]) -> Trees:
    """All of them as one table of nodes has them."""
    sizes = np.cumsum([0, *(len(trees.parent) for trees in some)])
    tokens = np.cumsum([0, *(len(trees.tokens) for trees in some)])

    def joined(columns):
        return pl.concat(columns) if isinstance(columns[0], pl.Series) else np.concatenate(columns)

    def given_of(name: str, trees: Trees, number: int):
        values = trees.given[name]
        return np.where(values < 0, -1, values + 10 * number) if name == "state" else values

    return Trees(
        parent=np.concatenate(
            [np.where(trees.parent < 0, -1, trees.parent + start) for trees, start in zip(some, sizes, strict=False)]
        ).astype(np.int32),
        depth=np.concatenate([trees.depth for trees in some]),
        tree=np.concatenate([np.full(len(trees.parent), code, np.int32) for code, trees in enumerate(some)]),
        reward=np.concatenate([trees.reward for trees in some]),
        tokens=np.concatenate([trees.tokens for trees in some]),
        token_offsets=np.concatenate(
            [[0], *(trees.token_offsets[1:] + start for trees, start in zip(some, tokens, strict=False))]
        ).astype(np.int64),
        given={
            name: joined([given_of(name, trees, number) for number, trees in enumerate(some)]) for name in some[0].given
        },
    )


@st.composite
def renumberings(draw, trees: Trees, *, eldest_first: bool) -> np.ndarray:
    """`[N]` rows of a tree in another order, parents before children and, on request, first children before others."""
    children = [np.flatnonzero(trees.parent == row).tolist() for row in range(len(trees.parent))]
    waiting, order = [0], []
    while waiting:
        row = waiting.pop(draw(st.integers(0, len(waiting) - 1)))
        order.append(row)
        waiting += children[row][:1] if eldest_first else children[row]
        siblings = children[trees.parent[row]] if row else [row]
        waiting += siblings[1:] if eldest_first and row == siblings[0] else []
    return np.array(order)


def renumbered(trees: Trees, order: np.ndarray) -> Trees:
    """A tree with its rows in that order."""
    place, tokens = np.argsort(order), token_order(trees, order)
    return Trees(
        parent=np.where(trees.parent < 0, -1, place[trees.parent])[order].astype(np.int32),
        depth=trees.depth[order],
        tree=trees.tree[order],
        reward=trees.reward[order],
        tokens=trees.tokens[tokens],
        token_offsets=np.concatenate(([0], np.cumsum(trees.token_counts()[order]))),
        given={
            name: values[(order if INPUTS[name].per == NODE else tokens).tolist()]
            for name, values in trees.given.items()
        },
    )


def token_order(trees: Trees, order: np.ndarray) -> np.ndarray:
    """`[T]` the tokens of the rows in that order."""
    return ranges(trees.token_offsets[:-1][order], trees.token_counts()[order])


def said(name: str, trees: Trees) -> CreditColumns:
    return METHODS[name].function(trees, METHODS[name].params())


def rendered(trees: Trees) -> np.ndarray:
    """Roots, and what else is a prompt where the method looks at kinds and origins."""
    prompts = [
        trees.given.get(name, -1) == words.index("prompt") for name, words in (("kind", KINDS), ("origin", ORIGINS))
    ]
    return (trees.parent < 0) | prompts[0] | prompts[1]


def assert_same(one: CreditColumns, other: CreditColumns) -> None:
    for column in COLUMNS:
        mine, theirs = getattr(one, column), getattr(other, column)
        assert (mine is None) == (theirs is None), column
        if mine is not None:
            np.testing.assert_allclose(
                np.asarray(mine, np.float64), np.asarray(theirs, np.float64), atol=1e-9, rtol=1e-9, err_msg=column
            )


@pytest.mark.parametrize("name", METHODS)
class TestEveryMethod:
    def test_is_declared(self, name):
        method = METHODS[name]
        assert set(method.origins) <= set(ORIGINS)
        assert set(method.needs) <= set(INPUTS)
        assert is_dataclass(method.params())
        assert "Source:" in method.function.__doc__
        assert labelled(method) == any(need in ("step_soft", "step_hard") for need in method.needs)
        assert in_every_round(method) == (name not in ("gigpo", "mars", "san", "malt") and not scored_by(method))

    @settings(deadline=None, max_examples=30)
    @given(st.data())
    def test_numbers_are_finite_or_unknown_and_as_many_as_nodes(self, name, data):
        trees = together(data.draw(forests(METHODS[name].needs)))
        found = said(name, trees)
        for column in COLUMNS:
            values = getattr(found, column)
            if values is not None:
                assert len(values) == (len(trees.tokens) if column == "token_advantages" else len(trees.parent))
                assert not np.isinf(np.asarray(values, np.float64)).any()
        assert (found.advantage[rendered(trees)] == 0).all(), "nobody sampled what was rendered"
        if found.token_advantages is not None:
            in_prompts = found.token_advantages[np.repeat(rendered(trees), trees.token_counts())]
            assert (np.isnan(in_prompts) | (in_prompts == 0)).all()

    @settings(deadline=None, max_examples=30)
    @given(st.data())
    def test_the_order_of_groups_does_not_matter(self, name, data):
        some = data.draw(forests(METHODS[name].needs))
        order = data.draw(st.permutations(range(len(some))))
        straight, turned = said(name, together(some)), said(name, together([some[at] for at in order]))
        for column in COLUMNS:
            mine, theirs = getattr(straight, column), getattr(turned, column)
            if mine is None:
                continue
            sizes = [len(trees.tokens) if column == "token_advantages" else len(trees.parent) for trees in some]
            pieces = np.split(np.asarray(mine, np.float64), np.cumsum(sizes)[:-1])
            np.testing.assert_allclose(
                np.concatenate([pieces[at] for at in order]), np.asarray(theirs, np.float64), atol=1e-9, err_msg=column
            )

    @settings(deadline=None, max_examples=30)
    @given(st.data())
    def test_the_order_of_siblings_does_not_matter(self, name, data):
        """But to GroundedPRM, for which a first child is what its parent's rollout went on with, and others came later:
        simulated steps are discounted by their distance from the node that was expanded."""
        some = data.draw(forests(METHODS[name].needs))
        orders = [data.draw(renumberings(trees, eldest_first=name == "groundedprm")) for trees in some]
        turned = said(name, together([renumbered(*one) for one in zip(some, orders, strict=True)]))
        straight, whole = said(name, together(some)), together(some)
        starts = np.cumsum([0, *map(len, orders)])[:-1]
        order = np.concatenate([rows + start for rows, start in zip(orders, starts, strict=True)])
        for column in COLUMNS:
            mine, theirs = getattr(straight, column), getattr(turned, column)
            if mine is None:
                continue
            at = token_order(whole, order) if column == "token_advantages" else order
            np.testing.assert_allclose(
                np.asarray(mine, np.float64)[at], np.asarray(theirs, np.float64), atol=1e-9, err_msg=column
            )

    @settings(deadline=None, max_examples=15)
    @given(st.data())
    def test_the_same_again(self, name, data):
        trees = together(data.draw(forests(METHODS[name].needs)))
        assert_same(said(name, trees), said(name, trees))

    def test_no_nodes(self, name):
        trees = Trees(
            parent=np.zeros(0, np.int32),
            depth=np.zeros(0, np.int32),
            tree=np.zeros(0, np.int32),
            reward=np.zeros(0),
            tokens=np.zeros(0, np.int32),
            token_offsets=np.zeros(1, np.int64),
            given={
                need: pl.Series([], dtype=pl.String) if INPUTS[need].description.startswith("polars") else np.zeros(0)
                for need in METHODS[name].needs
                if need != "tokens"
            },
        )
        assert len(said(name, trees).advantage) == 0

    @settings(deadline=None, max_examples=15)
    @given(st.data())
    def test_rows_are_of_the_credit_table(self, name, data):
        trees = together(data.draw(forests(METHODS[name].needs)))
        nodes = pl.DataFrame({"tree": trees.tree.astype(str), "node": np.arange(len(trees.parent))})
        prompts = data.draw(st.lists(st.booleans(), min_size=len(nodes), max_size=len(nodes)))
        nodes = nodes.with_columns(task=pl.lit("t"), kind=pl.Series(["prompt" if one else "step" for one in prompts]))
        rows = credit_frame(nodes.with_columns(pl.col("node").cast(pl.Int32)), trees, said(name, trees), name)
        Credit.validate(rows)
        shown = rows.filter((nodes["kind"] == "prompt") & pl.Series(trees.parent >= 0, dtype=pl.Boolean))
        assert (shown["advantage"] == 0).all()
        assert shown["token_advantages"].null_count() == shown.height, "nobody sampled what was rendered"


@pytest.mark.parametrize("name", OF_TASKS)
@settings(deadline=None, max_examples=30)
@given(st.data())
def test_nothing_leaks_across_tasks(name, data):
    some = data.draw(forests(METHODS[name].needs))
    whole, parts = said(name, together(some)), [said(name, trees) for trees in some]
    for column in COLUMNS:
        values = [getattr(part, column) for part in parts]
        if getattr(whole, column) is not None:
            np.testing.assert_allclose(
                np.asarray(getattr(whole, column), np.float64),
                np.concatenate([np.asarray(value, np.float64) for value in values]),
                atol=1e-9,
                err_msg=column,
            )


@pytest.mark.parametrize("name", OF_VERDICTS)
@settings(deadline=None, max_examples=30)
@given(st.data())
def test_what_nobody_judged_is_unknown(name, data):
    trees = together(data.draw(forests(METHODS[name].needs)))
    trees = replace(trees, reward=np.full(len(trees.parent), np.nan))
    written = rendered(trees)
    if name == "adasearch":
        trees.given["closed_book"][trees.parent < 0] = np.nan  # verdicts of another round
    if name == "brpo":  # it sees words that asked for a summary, which nobody sampled either
        summary = trees.given["origin"] == ORIGINS.index("summary")
        written |= summary & ~summary[trees.parent]
    assert np.isnan(said(name, trees).advantage[~written]).all()
