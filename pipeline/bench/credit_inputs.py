"""What methods are given in bench `credit`: nodes of the forest, and what those lack, drawn.

A forest has no step labels, no tool calls, one agent and texts without tags, so these are drawn for its nodes, and with
them whatever else a method needs, by what INPUTS says of it. Does not know any method.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from zlib import crc32

import numpy as np
import polars as pl

from pipeline.bench.forest import StoredForest
from pipeline.bench.prose import draw_logprobs
from pipeline.credit.columns import Method, Trees, rows_by_depth
from pipeline.credit.inputs import INPUTS, NODE
from pipeline.credit.tables import columns_for, seen_by, trees_from_nodes
from schemas.words import ORIGINS

SAMPLES = 8
"""Continuations by which a step is labelled."""
STEADY, WRONG, UNKNOWN = 0.4, 0.2, 0.01
"""Share of steps after which as many continuations succeed as before; of wrong ones; of those without a label."""
STATES, REVISITED, STATELESS = 3, 0.4, 0.05
"""States of a depth of a tree to which several steps come; share of steps from one of those; of those from none."""
PAYOFFS, MALFORMED = 64, 0.1
"""Different payoff matrices, the first of which cannot be read; share of responses that lack a tag."""
ENDS = ("</think></thinking>\n<payoff>", "</think>\n<payoff>", "</thinking>\n<payoff>")
"""Of thinking, the first as it should be."""
CALLS = (
    '[{"name": "search", "arguments": {"query": "where", "k": 3}}]',
    '[{"name": "search", "ok": false}, {"name": "search", "arguments": {"query": "when", "k": 3}}]',
    '[{"name": "calculate", "arguments": {"of": "1 + 1"}}]',
    *(None, None),
)
REFERENCES = (
    '[{"name": "search", "arguments": {"query": "where"}}, {"name": "calculate", "arguments": {"of": "1 + 1"}}]',
    '[{"name": "search", "arguments": {"query": "when"}}]',
)
SUBGOALS, ACHIEVED = '["key", "door", "stairs"]', ('["key"]', '["door", "window"]', "[]", None, None, None)
BUDGETS = 4
SAMPLE, BRANCH, SUMMARY = (ORIGINS.index(word) for word in ("sample", "branch", "summary"))
CELLS = ("DQ_AQ", "DQ_CQ", "DQ_DA", "VQ_AQ", "VQ_CQ", "VQ_DA")


def read_trees(forest: StoredForest, method: Method) -> Trees:
    """The nodes of a forest that a method looks at, given what they hold of its needs."""
    held = [name for name in method.needs if INPUTS[name].source.startswith("nodes.") and name not in LACKING]
    nodes = forest.read("nodes", columns=columns_for(method)).filter(seen_by(method)).sort("tree", "node")
    return trees_from_nodes(nodes, forest.read("verdicts"), needs=held)


def with_needs(trees: Trees, method: Method, *, seed: int) -> Trees:
    """The same trees, given all that a method needs. The same trees and seed give the same."""
    given = dict(trees.given)
    for name in method.needs:
        random = np.random.default_rng([seed, crc32(name.encode())])
        if name in DRAWN:
            given[name] = DRAWN[name](random, trees)
        elif name not in given and name != "tokens":
            given[name] = _of_its_kind(name, random, trees)
    return replace(trees, given=given) if given else trees


def first_trees(trees: Trees, count: int) -> Trees:
    """So many trees: the first ones, or all of them over and over again.

    Args:
        trees: in the order of their codes.
        count: 1 or more.
    """
    size = int(trees.tree[-1]) + 1
    times, rest = divmod(count, size)
    rows = int(np.searchsorted(trees.tree, rest))
    tokens = int(trees.token_offsets[rows])

    def again(column: np.ndarray, cut: int) -> np.ndarray:
        return np.concatenate((*[column] * times, column[:cut]))

    copy = np.repeat(np.arange(times + 1, dtype=np.int32), [*[len(trees.parent)] * times, rows])
    parent = again(trees.parent, rows)
    given = {}
    for name, values in trees.given.items():
        cut = rows if INPUTS[name].per == NODE else tokens
        given[name] = (
            pl.concat([*[values] * times, values[:cut]]) if isinstance(values, pl.Series) else again(values, cut)
        )
    return Trees(
        parent=np.where(parent < 0, parent, parent + copy * np.int32(len(trees.parent))),
        depth=again(trees.depth, rows),
        tree=again(trees.tree, rows) + copy * np.int32(size),
        reward=again(trees.reward, rows),
        tokens=None if trees.tokens is None else again(trees.tokens, tokens),
        token_offsets=np.concatenate(([0], np.cumsum(again(trees.token_counts(), rows)))),
        given=given,
    )


def flat_groups(count: int, *, size: int, seed: int) -> Trees:
    """Groups of answers of one step to a task, each right or wrong, of 50 tokens or so."""
    random = np.random.default_rng([seed, size])
    rows = count * (size + 1)
    root = np.arange(rows) % (size + 1) == 0
    tree = np.repeat(np.arange(count, dtype=np.int32), size + 1)
    right = random.random(rows) < np.repeat(random.random(count), size + 1)
    return Trees(
        parent=np.where(root, np.int32(-1), tree * np.int32(size + 1)),
        depth=(~root).astype(np.int32),
        tree=tree,
        reward=np.where(root, np.nan, right),
        tokens=None,
        token_offsets=np.concatenate(([0], np.cumsum(random.integers(1, 100, rows)))),
    )


def _of_its_kind(name: str, random: np.random.Generator, trees: Trees) -> np.ndarray | pl.Series:
    """What INPUTS' kind allows: log-probabilities; empty lists; else zeros and ones."""
    count = len(trees.parent) if INPUTS[name].per == NODE else int(trees.token_offsets[-1])
    if name.endswith("logprobs"):
        return draw_logprobs(random, count).astype(np.float64)
    if INPUTS[name].description.startswith("polars strings"):
        return pl.repeat("[]", count, eager=True)
    return random.integers(0, 2, count).astype(np.float64)


def _agents(random: np.random.Generator, trees: Trees) -> np.ndarray:
    """Two seats."""
    return random.integers(0, 2, len(trees.parent), dtype=np.int32)


def _states(random: np.random.Generator, trees: Trees) -> np.ndarray:
    """Codes, some of them of several steps of a depth of a tree."""
    count = len(trees.parent)
    depths = int(trees.depth.max(initial=0)) + 1
    shared = (trees.tree.astype(np.int64) * depths + trees.depth) * STATES + random.integers(0, STATES, count)
    own = int(shared.max(initial=0)) + 1 + np.arange(count)
    state = np.where(random.random(count) < REVISITED, shared, own)
    return np.where(random.random(count) < STATELESS, -1, state)


def _step_rewards(random: np.random.Generator, trees: Trees) -> np.ndarray:
    """Mostly nothing; a success for one step in ten, a small fine for another."""
    return np.array([1.0, -0.1, *[0.0] * 8])[random.integers(0, 10, len(trees.parent))]


def _tool_calls(random: np.random.Generator, trees: Trees) -> pl.Series:
    return pl.Series(CALLS).gather(random.integers(0, len(CALLS), len(trees.parent)))


def _chances(random: np.random.Generator, trees: Trees) -> np.ndarray:
    """Of success after a step; NaN where none is known."""
    count = len(trees.parent)
    chance = random.integers(0, SAMPLES + 1, count) / SAMPLES
    steady = random.random(count) < STEADY
    for rows in rows_by_depth(trees.depth)[1:]:
        kept = rows[steady[rows]]
        chance[kept] = chance[trees.parent[kept]]
    return np.where(random.random(count) < UNKNOWN, np.nan, chance)


def _right_steps(random: np.random.Generator, trees: Trees) -> np.ndarray:
    """1 or 0; NaN where undecided."""
    count = len(trees.parent)
    right = (random.random(count) >= WRONG).astype(np.float64)
    return np.where(random.random(count) < UNKNOWN, np.nan, right)


def _tagged_texts(random: np.random.Generator, trees: Trees) -> pl.Series:
    """The texts of nodes, with tags such that a path reads: thinking with a think span, a payoff matrix, an analysis,
    a response with an answer span."""
    count, empty = len(trees.parent), pl.lit("")
    first, last = pl.Series(trees.depth == 1), pl.Series(trees.leaves() & (trees.depth > 0))
    paid = [
        json.dumps({cell: {"LLM": model, "user": user} for cell, (model, user) in zip(CELLS, cells, strict=True)})
        for cells in random.integers(0, 6, (PAYOFFS, len(CELLS), 2)).tolist()
    ]
    payoff = pl.Series(["none", *paid[1:]]).gather(random.integers(0, PAYOFFS, count))
    lacking = np.where(random.random(count) < MALFORMED, random.integers(1, len(ENDS), count), 0)
    analysis = pl.lit("</payoff>\n<analyze>As above.</analyze>\n<response>")
    before = pl.concat_str(pl.Series(ENDS).gather(lacking), payoff, analysis)
    return pl.select(
        pl.concat_str(
            pl.when(first).then(pl.lit("<thinking><think>")).otherwise(empty),
            pl.when(last).then(before).otherwise(empty),
            trees.given["text"].fill_null(""),
            pl.when(last).then(pl.lit(" <answer>7</answer></response>")).otherwise(empty),
        )
    ).to_series()


def _origins(random: np.random.Generator, trees: Trees) -> np.ndarray:
    """Those there are, but branches are summaries, which is one to most methods."""
    origin = trees.given["origin"]
    return np.where(origin == BRANCH, SUMMARY, origin)


def _budgets(random: np.random.Generator, trees: Trees) -> np.ndarray:
    """A budget ends with every inner step of a sample."""
    place = trees.depth - 1
    ends = (trees.given["origin"] == SAMPLE) & (place >= 0) & (place < BUDGETS) & ~trees.leaves()
    return np.where(ends, place, np.nan)


def _reference_calls(random: np.random.Generator, trees: Trees) -> pl.Series:
    return _on_roots(trees, pl.Series(REFERENCES).gather(random.integers(0, len(REFERENCES), len(trees.parent))), None)


def _subgoals(random: np.random.Generator, trees: Trees) -> pl.Series:
    return _on_roots(trees, SUBGOALS, pl.Series(ACHIEVED).gather(random.integers(0, len(ACHIEVED), len(trees.parent))))


def _on_roots(trees: Trees, root: pl.Series | str, inner: pl.Series | None) -> pl.Series:
    """One on roots, the other elsewhere."""
    return pl.select(pl.when(pl.Series(trees.parent < 0)).then(pl.lit(root)).otherwise(pl.lit(inner))).to_series()


def _attributions(random: np.random.Generator, trees: Trees) -> np.ndarray:
    """From 0 to 3, -1 where the annotator failed."""
    return random.integers(-1, 4, len(trees.parent)).astype(np.float64)


def _critic_values(random: np.random.Generator, trees: Trees) -> np.ndarray:
    return random.random(int(trees.token_offsets[-1]))


def _attention(random: np.random.Generator, trees: Trees) -> np.ndarray:
    return random.exponential(1.0, int(trees.token_offsets[-1]))


DRAWN: dict[str, Callable[[np.random.Generator, Trees], np.ndarray | pl.Series]] = {
    "agent": _agents,
    "state": _states,
    "step_reward": _step_rewards,
    "text": _tagged_texts,
    "tool_calls": _tool_calls,
    "step_soft": _chances,
    "step_hard": _right_steps,
    "origin": _origins,
    "budget": _budgets,
    "reference_calls": _reference_calls,
    "subgoals": _subgoals,
    **{f"attribution_{name}": _attributions for name in ("goal", "relationship", "knowledge")},
    "critic_values": _critic_values,
    "waad": _attention,
    "fai": _attention,
}
"""By name of INPUTS, for the trees in which it shall stand; all others are drawn by their kind."""
LACKING = ("agent", "state", "step_reward", "tool_calls")
"""Of the nodes' columns, those in which a forest holds nothing, or the same throughout."""
